//! Commands that ask over TLS, as of what stands before a daemon.

use sluiced_tests::tls::Manner;
use sluiced_tests::{TestCa, TlsReceiver};

use super::{SOON, command, err};

#[tokio::test]
async fn commands_speak_https_to_whom_they_trust() {
    let (ca, stranger) = (TestCa::new(), TestCa::new());
    let identity = ca.identity("localhost");
    let server = TlsReceiver::start(Manner::of(&identity));
    let url = format!("https://localhost:{}", server.port());
    let ask = async |url: &str, ca: Option<&TestCa>| {
        let mut command = command(&["webhooks", "list", "--key", "hush", "--url", url]);
        if let Some(ca) = ca {
            command.arg("--ca").arg(ca.file());
        }
        tokio::time::timeout(SOON, command.output()).await.expect("it ends").expect("the daemon's binary runs")
    };
    let trusted = ask(&url, Some(&ca)).await;
    assert!(err(&trusted).contains("its answer is not JSON"), "it was asked, and answered: {trusted:?}");
    let asked = server.requests();
    assert_eq!((asked.len(), asked[0].server_name.as_str()), (1, "localhost"));

    let by_address = format!("https://127.0.0.1:{}", server.port());
    for (url, ca) in [(&url, None), (&url, Some(&stranger)), (&by_address, Some(&ca))] {
        let refused = ask(url, ca).await;
        assert_eq!(refused.status.code(), Some(69), "{refused:?}");
        assert!(err(&refused).contains("certificate") && !err(&refused).contains("hush"), "{refused:?}");
    }
    assert_eq!(server.requests().len(), 1, "nothing was sent to whom they do not trust");
    let missing = command(&["webhooks", "list", "--url", &url, "--ca", "/nowhere/ca.pem"]).output().await;
    let missing = missing.expect("the daemon's binary runs");
    assert!(
        missing.status.code() == Some(1) && err(&missing).contains("/nowhere/ca.pem cannot be read"),
        "{missing:?}"
    );
    let other = ask("ftp://localhost/", None).await;
    assert!(err(&other).contains("is not an http:// or https:// URL"), "{other:?}");
}
