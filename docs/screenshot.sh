# Take the screenshots in docs/images of a running service: sh docs/screenshot.sh http://127.0.0.1:8000
set -eu
picture() { # NAME QUERY
    chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
        --disable-component-update --disable-sync --hide-scrollbars --user-data-dir="$(mktemp -d)" \
        --window-size=1100,996 --virtual-time-budget=4000 --screenshot="docs/images/$1.png" "$address/?$2"
}
address=$1
picture page "locale=de-DE&text=Weck%20mich%20am%20Freitag%20um%209%20Uhr!"
picture compare "locale=en-US&compare=all&text=remind%20me%20about%20the%20second%20season%20of%20dark%20at%20half%20past"
