# Picture the page of a running service: sh docs/screenshot.sh http://127.0.0.1:8000 docs/images/page.png
set -eu
chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --hide-scrollbars --user-data-dir="$(mktemp -d)" \
    --window-size=1100,1000 --virtual-time-budget=4000 --screenshot="$2" \
    "$1/?locale=de-DE&text=Weck%20mich%20am%20Freitag%20um%209%20Uhr!"
