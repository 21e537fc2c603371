//! Which address of several is taken.

use tokio::net::TcpListener;

use super::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

async fn listener(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).await.expect("binds");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// An address that refuses every connection.
async fn closed() -> SocketAddr {
    listener("127.0.0.1:0").await.1
}

#[tokio::test]
async fn the_next_address_is_dialled_at_once_when_one_refuses() {
    let (_open, address) = listener("127.0.0.1:0").await;
    // Who waits for the next address is never so quick, and who does not may be slow on a machine that does much else.
    let mut quickest = Duration::MAX;
    for _ in 0..20 {
        let began = Instant::now();
        let stream = dial(&[closed().await, closed().await, address], soon()).await.expect("one listens");
        assert_eq!(stream.peer_addr().expect("connected"), address);
        quickest = quickest.min(began.elapsed());
    }
    assert!(quickest < NEXT_ADDRESS_DELAY, "{quickest:?}");
}

#[tokio::test]
async fn the_next_address_is_dialled_beside_one_that_does_not_answer() {
    // A documentation address (RFC 5737) leads nowhere: no answer, or none that says yes.
    let silent = SocketAddr::from(([192, 0, 2, 1], 9));
    let (_open, address) = listener("127.0.0.1:0").await;
    let stream = dial(&[silent, address], soon()).await.expect("one listens");
    assert_eq!(stream.peer_addr().expect("connected"), address);
}

#[tokio::test]
async fn what_an_address_said_counts_for_more_than_that_there_is_no_way_to_another() {
    let error = dial(&[closed().await, SocketAddr::from(([255, 255, 255, 255], 9))], soon()).await;
    assert_eq!(error.expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
    assert!(dial(&[], soon()).await.is_err());
}
