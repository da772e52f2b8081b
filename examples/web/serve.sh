# The greeting by busybox alone.
trap 'kill $server; exit 0' TERM
mkdir -p www
printf 'Hello %s!\nHostname: %s\n' "$NAME" "$(hostname)" > www/index.html
echo "listening on port 80"
httpd -f -p 80 -h www &
server=$!
wait $server
