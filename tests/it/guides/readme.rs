//! The README, as a newcomer walks it: the demonstration is seen, broken, killed and seen to recover, and a plugin is written.

use super::samples::run_elsewhere;
use super::walk::Walk;

/// `cargo xtask dev` is the daemon's own `dev` with the plugins that were built; it prints into a file in the place of a terminal.
const FIRST_TERMINAL: &str = r#"
mkdir -p -m 700 tour/data
ln -s "$PLUGIN_CACHE" tour/data/plugin-cache
dev() {
    SLUICED_NATS_SERVER=nats-server SLUICED_PLUGINS__DIR=$PLUGINS sluiced dev --data-dir tour > account 2>&1 &
    DEV=$!
    until grep -q 'sluiced is up' account; do sleep 0.1; done
    variables
    curl -sS --retry 30 --retry-delay 1 $API/readyz
}
variables() {
    API=$(grep -o -m 1 'http://127.0.0.1:[0-9]*/api' account | sed 's,/api,,')
    RECEIVER=$(grep -o -m 1 'http://127.0.0.1:[0-9]*/fail' account | sed 's,/fail,,')
    KEY="X-API-Key: $(grep -o -m 1 'demo-[0-9A-Za-z_-]*' account)"
}
taken() {
    until grep -q '✓ big-orders' account; do sleep 0.1; done
}
held() {
    until curl -sS $API/metrics | grep -q "^sluiced_held{subscription=\"big-orders\"} $1"; do sleep 0.1; done
}
"#;

#[tokio::test]
async fn the_readme_is_walked_line_by_line() {
    let page = super::page("README.md");
    let replaced = [
        ("cargo xtask dev --data-dir /tmp/sluiced-tour", "dev"),
        ("API=http://127.0.0.1:… RECEIVER=http://127.0.0.1:… KEY=\"X-API-Key: demo-…\"", "variables"),
        ("pkill -9 -x sluiced", "kill -9 $DEV\nwait $DEV || true"),
        // The dependencies in the versions of the workspace, which are on this machine already.
        (
            "sluiced plugin build large-orders",
            "cp $WORKSPACE/Cargo.lock large-orders\nsluiced plugin build large-orders",
        ),
    ];
    let mut walk = Walk::start(&[], &replaced).await;
    walk.run(FIRST_TERMINAL).await;
    // What the text between the blocks says is seen to be so: taken, held after some failures, live again after the crash.
    let seen = [(3, "taken"), (5, "held 1"), (6, "taken\nheld 0")];
    walk.page(&page, &run_elsewhere(&page), &seen).await;
    let listed = walk.run("curl -sS $API/api/v1/plugins -H \"$KEY\"").await;
    assert!(listed.contains("large-orders"), "{listed}");
}
