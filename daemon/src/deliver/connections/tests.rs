//! The bound on connections, with attempts against receivers on loopback.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const SOON: Duration = Duration::from_secs(5);

fn connections(max: usize) -> (Connections, ClientMetrics) {
    let metrics = ClientMetrics::default();
    (Connections::new(max, metrics.clone()), metrics)
}

/// A connection, and its other end.
async fn open(connections: &Connections) -> (TokioIo<Connection>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let permit = connections.permit(Instant::now() + SOON).await.expect("one is free");
    let dialled = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
    let (accepted, _) = listener.accept().await.expect("it was dialled");
    (TokioIo::new(permit.opened(dialled)), accepted)
}

/// One request and its answer, after which the connection rests.
async fn exchange(connection: &mut TokioIo<Connection>, other: &mut TcpStream) {
    connection.write_all(b"ask").await.expect("it is open");
    other.read_exact(&mut [0; 3]).await.expect("it was sent");
    other.write_all(b"answer").await.expect("it is open");
    let link = Arc::clone(&connection.inner().link);
    let writes = link.writes();
    connection.read_exact(&mut [0; 6]).await.expect("it was answered");
    link.rests(writes);
}

#[tokio::test]
async fn a_permit_comes_back_when_its_connection_is_dropped_and_the_open_ones_are_counted() {
    let (connections, metrics) = connections(1);
    for _ in 0..3 {
        let (connection, _other) = open(&connections).await;
        assert_eq!(metrics.connections.get(), 1);
        let soon = Instant::now() + Duration::from_millis(20);
        assert_eq!(connections.permit(soon).await.err(), Some(NoneFree { max: 1 }), "it is in use");
        drop(connection);
        assert_eq!(metrics.connections.get(), 0);
    }
    assert!(connections.0.open.lock().is_empty());
}

#[tokio::test]
async fn the_connection_that_rests_the_longest_makes_room_and_one_in_use_never_does() {
    let (connections, _) = connections(3);
    let (mut first, mut first_other) = open(&connections).await;
    let (mut second, mut second_other) = open(&connections).await;
    let (mut busy, mut busy_other) = open(&connections).await;
    exchange(&mut busy, &mut busy_other).await;
    exchange(&mut second, &mut second_other).await;
    exchange(&mut first, &mut first_other).await;
    busy.write_all(b"next").await.expect("it is open");

    let waiting = connections.permit(Instant::now() + SOON);
    let closing = async {
        assert_eq!(second.read(&mut [0; 1]).await.expect("it reads as ended"), 0);
        assert!(second.write_all(b"more").await.is_err(), "nothing is sent any more");
        drop(second);
    };
    let (permit, ()) = tokio::join!(waiting, closing);
    assert!(permit.is_ok());
    exchange(&mut first, &mut first_other).await;
}

#[tokio::test]
async fn a_connection_that_comes_to_rest_makes_room_for_who_waits() {
    let (connections, _) = connections(1);
    let (mut connection, mut other) = open(&connections).await;
    let waiting = connections.permit(Instant::now() + SOON);
    let resting = async {
        exchange(&mut connection, &mut other).await;
        assert_eq!(connection.read(&mut [0; 1]).await.expect("it reads as ended"), 0);
        drop(connection);
    };
    let (permit, ()) = tokio::join!(waiting, resting);
    assert!(permit.is_ok());
}

#[tokio::test]
async fn a_connection_that_has_the_next_request_already_does_not_rest() {
    let (connections, _) = connections(1);
    let (mut connection, _other) = open(&connections).await;
    connection.write_all(b"first").await.expect("it is open");
    let link = Arc::clone(&connection.inner().link);
    let writes = link.writes();
    connection.write_all(b"second").await.expect("it is open");
    link.rests(writes);
    let soon = Instant::now() + Duration::from_millis(20);
    assert!(connections.permit(soon).await.is_err());
    connection.write_all(b"third").await.expect("it is still open");
}
