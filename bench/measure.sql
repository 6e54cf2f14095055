-- Runs the statements that the query :warm_up answers, then those of :work, and says what the latter took:
-- milliseconds, microseconds of this backend's CPU.
\o /dev/null
:warm_up \gexec
SELECT bench.cpu() AS cpu, extract(epoch FROM clock_timestamp()) AS clock \gset
:work \gexec
SELECT extract(epoch FROM clock_timestamp()) - :clock AS seconds, bench.cpu() - :cpu AS cpu \gset
\o
SELECT round(:seconds * 1000, 3), round(:cpu / 1000.0, 1);
