# shellcheck shell=bash
# Source it: the code of a page of the documentation as files, for the tests that run it.

# blocks_of PAGE DIR: in DIR 001.sql and 001.text, the output that the page shows after it, 001.notice, what it is told
# besides, and recipe_NAME.py.
blocks_of() {
    mkdir -p "$2"
    rm -f "$2"/*.sql "$2"/*.text "$2"/*.notice "$2"/recipe_*.py
    awk -v dir="$2" '
      /^```sql$/    { n++; file = sprintf("%s/%03d.sql", dir, n); next }
      /^```text$/   { file = sprintf("%s/%03d.text", dir, n); printf "" > file; next }
      /^```notice$/ { file = sprintf("%s/%03d.notice", dir, n); next }
      /^```python$/ { getline; name = $0; sub(/^# recipe: /, "", name); file = sprintf("%s/recipe_%s.py", dir, name); next }
      /^```/        { file = (file == "" ? "-" : ""); next }
      file != "" && file != "-" { print > file }
    ' "$1"
}
