# Of latencies in µs, the shortest first, a line each: the least in whose time 50, 99 and 99.9 of 100 were done, in ms.
{ us[NR] = $1 }
function percentile(of_1000) { return us[int((NR * of_1000 + 999) / 1000)] / 1000 }
END { printf "%.3f %.3f %.3f\n", percentile(500), percentile(990), percentile(999) }
