//! The hub over a log in memory, on paused time.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::testing::{Doubles, Listener, MemoryLog, config, name, named, wants};
use super::{Config, Connection, Cursor, Error, Hub, NoPlugins, Pace, Request, RingLimits, Wanted};
use crate::domain::{Begin, SubscriptionId};

async fn listen(hub: &Hub, types: &[&str], cursor: Option<&str>) -> Listener {
    Listener::new(hub.subscribe(wants(types, cursor)).await.expect("it is admitted"))
}

fn wants_named(id: &str, cursor: Option<&str>) -> Request {
    let wanted = Wanted::Named(SubscriptionId::parse(id).unwrap());
    Request { wanted, ..wants(&[], cursor) }
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn hears_matching_events_from_now_on() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(config(), vec![]);
    log.append("EVENTS", "a.old");
    let mut client = listen(&hub, &["a.*"], None).await;
    for kind in ["a.x", "b.x", "a.y", "a.y.z"] {
        log.append("EVENTS", kind);
    }
    let own = |sequence, kind: &str| (log.place("EVENTS", sequence), kind.to_owned(), sequence.to_string());
    let before = Instant::now();
    assert_eq!(client.events(2).await, [own(2, "a.x"), own(4, "a.y")]);
    assert!(before.elapsed() < Duration::from_secs(1), "it was woken, and did not find them by its heartbeat");
    assert!(client.text.starts_with(b"retry: "));
    // The cursor passes what the client does not want, with the next heartbeat.
    client.until(|c| c.last_id() == Some(log.place("EVENTS", 5))).await;
    assert_eq!(client.data().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_gets_exactly_what_it_missed() {
    let log = MemoryLog::new(&["EVENTS"]);
    let mut client = listen(&log.hub(config(), vec![]), &[">"], None).await;
    // Before any event the client has a place already.
    client.until(|c| c.last_id().is_some()).await;
    assert_eq!(client.last_id(), Some(log.place("EVENTS", 0)));
    log.append("EVENTS", "a");
    client.events(1).await;
    let place = client.last_id();
    drop(client);
    (0..100).for_each(|_| {
        log.append("EVENTS", "a");
    });
    // Another hub: the place comes from the log alone.
    let hub = log.hub(config(), vec![]);
    let mut client = listen(&hub, &[">"], place.as_deref()).await;
    client.events(100).await;
    log.append("EVENTS", "a");
    client.events(101).await;
    assert_eq!(client.data(), numbers(2..=102));
    assert_eq!(client.last_id(), Some(log.place("EVENTS", 102)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_loses_nothing() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(config(), vec![]);
    let (mut slow, mut quick) = (listen(&hub, &[">"], None).await, listen(&hub, &[">"], None).await);
    for n in 1..=500 {
        log.append("EVENTS", "a");
        quick.events(n).await;
        if n % 10 == 0 {
            slow.piece().await;
        }
    }
    slow.events(500).await;
    assert_eq!(slow.data(), numbers(1..=500));
    assert_eq!(quick.data(), numbers(1..=500));
    assert_eq!(log.tails.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn history_that_is_gone_is_announced() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(config(), vec![]);
    (0..50).for_each(|_| {
        log.append("EVENTS", "a");
    });
    log.purge_below("EVENTS", 30);
    let mut client = listen(&hub, &[">"], Some("EVENTS:9")).await;
    let events = client.events(22).await;
    assert_eq!((&events[0].0, &*events[0].1), (&log.place("EVENTS", 29), "gap"));
    let gap: serde_json::Value = serde_json::from_str(&events[0].2).unwrap();
    assert_eq!((&gap["asked"], &gap["available"], &gap["missing_at_most"]), (&10.into(), &30.into(), &20.into()));
    assert_eq!(client.data(), numbers(30..=50));
    // Everything goes, also what the client has not read yet.
    log.purge_below("EVENTS", 51);
    log.append("EVENTS", "a");
    client.until(|c| c.data().len() == 22).await;
    assert_eq!(client.data().last().map(String::as_str), Some("51"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_made_anew_is_announced_and_read_from_its_beginning() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(config(), vec![]);
    (0..50).for_each(|_| {
        log.append("EVENTS", "a");
    });
    let mut connected = listen(&hub, &[">"], None).await;
    connected.piece().await;
    let (seen, early) = (log.place("EVENTS", 50), log.place("EVENTS", 2));
    log.recreate("EVENTS", 3);
    let mut back = listen(&hub, &[">"], Some(&seen)).await;
    for client in [&mut connected, &mut back] {
        let events = client.events(4).await;
        let gap: serde_json::Value = serde_json::from_str(&events[0].2).unwrap();
        assert_eq!((&gap["reason"], &gap["asked_id"]), (&"replaced".into(), &seen.as_str().into()), "{gap}");
        assert_eq!(gap["available_id"], log.place("EVENTS", 1), "{gap}");
        assert_eq!(client.data(), numbers(1..=3));
    }
    // A hub that never saw the old stream finds out too: by what the place says of its stream, and a place of an older
    // daemon's, which says nothing, by what the new stream never had.
    for place in [&seen, &early, "EVENTS:50"] {
        let mut later = listen(&log.hub(config(), vec![]), &[">"], Some(place)).await;
        assert_eq!(later.events(4).await[0].1, "gap", "{place}");
        assert_eq!(later.data(), numbers(1..=3), "{place}");
    }
    let mut unsaid = listen(&hub, &[">"], Some("EVENTS:2")).await;
    assert_eq!(unsaid.events(1).await, [(log.place("EVENTS", 3), "new".to_owned(), "3".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_place_in_a_stream_that_this_daemon_has_yet_to_see_is_waited_for() {
    let log = MemoryLog::new(&["EVENTS"]);
    let (hub, other) = (log.hub(config(), vec![]), log.hub(config(), vec![]));
    log.append("EVENTS", "a");
    drop(listen(&hub, &[">"], None).await);
    // The live tail of this one is told later.
    log.late_s.store(2, Ordering::Relaxed);
    log.recreate("EVENTS", 3);
    let place = listen(&other, &[">"], None).await;
    drop(place);
    let mut client = listen(&hub, &[">"], Some(&log.place("EVENTS", 1))).await;
    client.events(2).await;
    assert_eq!(client.data(), numbers(2..=3), "no gap, and no repetition");
}

#[tokio::test(start_paused = true)]
async fn a_client_s_place_pace_and_lag_can_be_asked_for_beside_it() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(Config { readers_max: 1, ..config() }, vec![named("board", &["b"], Arc::new(NoPlugins))]);
    (0..100).for_each(|_| {
        log.append("EVENTS", "a");
    });
    assert_eq!(hub.tail_lag(&SubscriptionId::parse("board").unwrap()).await, None, "nobody listens");
    let look = |client: &Listener| client.watched().look().expect("it is there");
    let shown = |client: &Listener| {
        let standing = look(client);
        (standing.cursor.to_string(), standing.pace, standing.lag_events)
    };
    let mut live = listen(&hub, &[">"], None).await;
    let mut other = listen(&hub, &["b"], None).await;
    while live.last_id().is_none() {
        live.piece().await;
    }
    other.piece().await;
    log.append("EVENTS", "a");
    assert_eq!(hub.tail_lag(&SubscriptionId::parse("board").unwrap()).await, Some(0));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(shown(&live), (log.place("EVENTS", 100), Pace::Live, 1));
    assert_eq!(shown(&other), (log.place("EVENTS", 100), Pace::Live, 0), "it does not want that one");
    live.events(1).await;
    assert!(poll!(pin!(live.piece())).is_pending());
    assert_eq!(shown(&live), (log.place("EVENTS", 101), Pace::Live, 0));

    // Two come back with old places: one is read for, the other is in line.
    let (mut first, mut second) =
        (listen(&hub, &[">"], Some("EVENTS:9")).await, listen(&hub, &["a"], Some("EVENTS:4")).await);
    for client in [&mut first, &mut second] {
        client.piece().await;
        assert!(poll!(pin!(client.piece())).is_pending());
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(shown(&first), (log.place("EVENTS", 9), Pace::CatchingUp, 92));
    assert_eq!(shown(&second), (log.place("EVENTS", 4), Pace::Waiting, 97));
    first.events(92).await;
    second.events(97).await;
    for client in [&mut first, &mut second] {
        assert!(poll!(pin!(client.piece())).is_pending());
        assert_eq!(shown(client), (log.place("EVENTS", 101), Pace::Live, 0));
    }
    let watched = first.watched();
    drop(first);
    assert_eq!(watched.look(), None);
}

#[tokio::test(start_paused = true)]
async fn connections_that_do_not_take_their_end_are_cut_and_no_others() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(config(), vec![]);
    let connections = [Connection::default(), Connection::default()];
    let request = |connection: &Connection| Request { connection: Some(connection.clone()), ..wants(&[">"], None) };
    let mut reads = Listener::new(hub.subscribe(request(&connections[0])).await.unwrap());
    let mut stalled = Listener::new(hub.subscribe(request(&connections[1])).await.unwrap());
    let [first, second] = connections;
    let (stop, began) = (CancellationToken::new(), Instant::now());
    stop.cancel();
    let is_cut = poll_fn(|context| second.poll_cut(context));
    // Whoever takes its end goes at once, with its connection.
    let takes = async {
        reads.ended().await;
        drop((reads, first));
        began.elapsed()
    };
    let ((), taken, ()) = tokio::join!(hub.run(stop), takes, is_cut);
    assert!(taken < Duration::from_millis(100), "{taken:?}");
    assert!((1..4).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    // It had its end in hand as well, and its socket did not take it.
    stalled.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_cursor_covers_every_stream() {
    let log = MemoryLog::new(&["EVENTS", "ORDERS"]);
    let hub = log.hub(config(), vec![]);
    let mut client = listen(&hub, &[">"], None).await;
    for _ in 0..20 {
        log.append("EVENTS", "a");
        log.append("ORDERS", "b");
    }
    client.events(15).await;
    let place = Cursor::parse(&client.last_id().unwrap()).unwrap();
    assert_eq!(place.streams().count(), 2);
    let seen = client.data().len();
    drop(client);
    let mut client = listen(&hub, &[">"], Some(&place.to_string())).await;
    client.events(40 - seen).await;
    assert_eq!(client.data().len(), 40 - seen);
    assert_eq!(client.last_id(), Some(format!("{},{}", log.place("EVENTS", 20), log.place("ORDERS", 20))));
    let unknown = hub.subscribe(wants(&[">"], Some("OTHER:1"))).await;
    assert!(matches!(unknown, Err(Error::UnknownStream { stream }) if stream == name("OTHER")));
    let nothing = hub.subscribe(Request { wanted: Wanted::Types(vec![]), ..wants(&[], None) }).await;
    assert!(matches!(nothing, Err(Error::NoStreamForTypes)));
}

#[tokio::test(start_paused = true)]
async fn limits_hold_and_are_given_back() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(Config { clients_max: 3, clients_per_principal_max: 2, ..config() }, vec![]);
    let request = |principal: &str| Request { principal: principal.to_owned(), ..wants(&[">"], None) };
    let kept = [hub.subscribe(request("a")).await.unwrap(), hub.subscribe(request("a")).await.unwrap()];
    assert!(matches!(hub.subscribe(request("a")).await, Err(Error::ClientsOfPrincipal { clients_max: 2 })));
    let _other = hub.subscribe(request("b")).await.unwrap();
    assert!(matches!(hub.subscribe(request("c")).await, Err(Error::Clients { clients_max: 3 })));
    drop(kept);
    hub.subscribe(request("a")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_named_stream_runs_its_plugins_once_for_all_and_parts_share_a_place() {
    let log = MemoryLog::new(&["EVENTS"]);
    let doubles = Arc::new(Doubles::default());
    let hub =
        log.hub(config(), vec![named("board", &["a"], doubles.clone()), named("plain", &["a"], Arc::new(NoPlugins))]);
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Listener::new(hub.subscribe(wants_named("board", None)).await.unwrap()));
    }
    let mut plain = Listener::new(hub.subscribe(wants_named("plain", None)).await.unwrap());
    for n in 1..=10 {
        log.append("EVENTS", if n == 5 { "b" } else { "a" });
    }
    let expected: Vec<String> = (1..=10).filter(|n| *n != 5).flat_map(Doubles::expected).collect();
    for client in &mut clients {
        let events = client.events(expected.len()).await;
        assert_eq!(client.data(), expected);
        // A place is given only after the last part.
        let places: Vec<&str> = events.iter().take(3).map(|(id, ..)| &**id).collect();
        assert_eq!(places, [0, 1, 1].map(|sequence| log.place("EVENTS", sequence)));
    }
    assert_eq!(doubles.runs.load(Ordering::Relaxed), 9);
    plain.events(9).await;
    assert_eq!(
        hub.named().iter().map(|n| (n.name.as_str(), n.clients)).collect::<Vec<_>>(),
        [("board", 5), ("plain", 1)]
    );
    // In history they run for the one who reads it.
    (0..60).for_each(|_| {
        log.append("EVENTS", "a");
    });
    let expected: Vec<String> = (1..=70).filter(|n| *n != 5).flat_map(Doubles::expected).collect();
    let mut back = Listener::new(hub.subscribe(wants_named("board", Some("EVENTS:0"))).await.unwrap());
    back.events(expected.len()).await;
    assert_eq!(back.data(), expected);
    let nobody = hub.subscribe(wants_named("nobody", None)).await;
    assert!(matches!(nobody, Err(Error::NoSuchStream { .. })));
}

#[tokio::test(start_paused = true)]
async fn another_definition_ends_the_clients_of_the_old_one_only() {
    let log = MemoryLog::new(&["EVENTS"]);
    let plain = || Arc::new(NoPlugins);
    let hub = log.hub(config(), vec![named("same", &["a"], plain()), named("other", &["a"], plain())]);
    let mut same = Listener::new(hub.subscribe(wants_named("same", None)).await.unwrap());
    let mut other = Listener::new(hub.subscribe(wants_named("other", None)).await.unwrap());
    hub.update(vec![named("same", &["a"], plain()), named("other", &["b"], plain())]);
    other.ended().await;
    log.append("EVENTS", "a");
    same.events(1).await;
    log.append("EVENTS", "b");
    let mut again = Listener::new(hub.subscribe(wants_named("other", other.last_id().as_deref())).await.unwrap());
    again.events(1).await;
    assert_eq!(again.data(), ["2"]);
    hub.update(vec![]);
    same.ended().await;
    assert!(hub.named().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_tail_ends_some_time_after_its_last_client() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(config(), vec![]);
    assert_eq!(log.tails.load(Ordering::Relaxed), 0);
    drop(listen(&hub, &[">"], None).await);
    drop(listen(&hub, &[">"], None).await);
    assert_eq!(log.tails.load(Ordering::Relaxed), 1);
    sleep(config().linger * 3).await;
    let client = listen(&hub, &[">"], None).await;
    sleep(config().linger * 3).await;
    drop(client);
    drop(listen(&hub, &[">"], None).await);
    assert_eq!(log.tails.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_does_not_answer_is_waited_for_with_heartbeats() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(config(), vec![]);
    (0..100).for_each(|_| {
        log.append("EVENTS", "a");
    });
    let mut client = listen(&hub, &[">"], Some("EVENTS:0")).await;
    log.broken.store(true, Ordering::Relaxed);
    client.until(|c| c.comments() >= 4).await;
    log.broken.store(false, Ordering::Relaxed);
    client.events(100).await;
    assert_eq!(client.data(), numbers(1..=100));
    log.broken.store(true, Ordering::Relaxed);
    assert!(matches!(hub.subscribe(wants(&[">"], None)).await, Err(Error::Facts { .. })));
    let fresh = log.hub(config(), vec![]);
    assert!(matches!(fresh.subscribe(wants(&[">"], None)).await, Err(Error::NotReady { .. })));
}

#[tokio::test(start_paused = true)]
async fn everything_ends_at_shutdown() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(config(), vec![named("board", &["a"], Arc::new(Doubles::default()))]);
    let stop = CancellationToken::new();
    let mut idle = listen(&hub, &[">"], None).await;
    let mut board = Listener::new(hub.subscribe(wants_named("board", None)).await.unwrap());
    // This one reads history that cannot be had, and is not polled again.
    let stuck = listen(&hub, &[">"], None).await;
    log.append("EVENTS", "a");
    idle.events(1).await;
    let before = Instant::now();
    let run = async {
        stop.cancel();
        hub.clone().run(stop.clone()).await;
    };
    let clients = async {
        idle.ended().await;
        board.ended().await;
    };
    tokio::join!(run, clients);
    assert!(before.elapsed() < Duration::from_secs(1));
    assert!(matches!(hub.subscribe(wants(&[">"], None)).await, Err(Error::Stopping)));
    drop(stuck);
}

#[tokio::test(start_paused = true)]
async fn a_first_connection_begins_where_it_says() {
    let log = MemoryLog::new(&["EVENTS", "ORDERS"]);
    let one = MemoryLog::new(&["EVENTS"]);
    (0..50).for_each(|_| {
        log.append("EVENTS", "a");
        one.append("EVENTS", "a");
    });
    log.purge_below("EVENTS", 11);
    let hub = log.hub(config(), vec![]);
    // Where it was in another stream says nothing of this one; and of one stream alone a sequence says enough.
    let orders = || Request { cursor: Some(Cursor::parse("ORDERS:0").unwrap()), ..wants(&[">"], None) };
    for (hub, request, from, first) in [
        (&hub, orders(), Begin::All, 11),
        (&hub, orders(), Begin::Time(29_500), 30),
        (&hub, orders(), Begin::Now, 51),
        (&one.hub(config(), vec![]), wants(&[">"], None), Begin::Sequence(40), 40),
        (&hub, wants(&["a"], Some("EVENTS:19")), Begin::All, 20),
    ] {
        let mut client = Listener::new(hub.subscribe(Request { from, ..request }).await.expect("it is admitted"));
        client.until(|client| client.last_id().is_some_and(|id| id.starts_with("EVENTS:50"))).await;
        assert_eq!(client.data(), numbers(first..=50), "{from:?}");
    }
    let several = hub.subscribe(Request { from: Begin::Sequence(1), ..wants(&[">"], None) }).await;
    assert!(matches!(several, Err(Error::SequenceOfSeveral)));
}

/// Notes that it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_wakes_those_who_want_it_and_nobody_else() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(config(), vec![]);
    let mut clients = Vec::new();
    for types in ["a.*", "b.*"] {
        let mut client = listen(&hub, &[types], None).await;
        client.piece().await;
        clients.push((client, Arc::new(Woken::default())));
    }
    let poll = |(client, woken): &mut (Listener, Arc<Woken>)| {
        let waker = Waker::from(Arc::clone(woken));
        pin!(client.piece()).poll(&mut Context::from_waker(&waker)).is_ready()
    };
    assert_eq!(clients.iter_mut().map(poll).collect::<Vec<_>>(), [false, false]);
    log.append("EVENTS", "a.x");
    sleep(Duration::from_millis(10)).await;
    let woken: Vec<bool> = clients.iter().map(|(_, woken)| woken.0.load(Ordering::Relaxed)).collect();
    assert_eq!(woken, [true, false]);
    assert_eq!(clients.iter_mut().map(poll).collect::<Vec<_>>(), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn those_who_come_back_to_about_the_same_place_share_its_reading() {
    let log = MemoryLog::new(&["EVENTS"]);
    let doubles = Arc::new(Doubles::default());
    let hub = log.hub(Config { readers_max: 1, ..config() }, vec![named("board", &["a"], doubles.clone())]);
    (0..100).for_each(|_| {
        log.append("EVENTS", "a");
    });
    let mut clients = Vec::new();
    for at in 0..40 {
        let request = wants_named("board", Some(&format!("EVENTS:{}", at % 4)));
        clients.push((at % 4, Listener::new(hub.subscribe(request).await.unwrap())));
    }
    let all = join_all(clients.iter_mut().map(|(at, client)| async move {
        let expected: Vec<String> = (*at + 1..=100).flat_map(Doubles::expected).collect();
        client.events(expected.len()).await;
        assert_eq!(client.data(), expected, "from {at}");
    }));
    all.await;
    let reads = log.reads.load(Ordering::Relaxed);
    // Each alone would read ten pieces of ten.
    assert!(reads < 80, "{reads} readings for 40 clients");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_asked_for_bytes_is_cut_off_and_no_other() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(Config { unread_timeout: Duration::from_secs(40), ..config() }, vec![]);
    let connections = [Connection::default(), Connection::default()];
    let request = |connection: &Connection| Request { connection: Some(connection.clone()), ..wants(&[">"], None) };
    let mut idle = Listener::new(hub.subscribe(request(&connections[0])).await.unwrap());
    let _stalled = hub.subscribe(request(&connections[1])).await.unwrap();
    let stop = CancellationToken::new();
    let is_cut = |connection: &Connection| connection.poll_cut(&Context::from_waker(Waker::noop())).is_ready();
    let test = async {
        sleep(Duration::from_secs(35)).await;
        assert!(!is_cut(&connections[1]), "not yet");
        sleep(Duration::from_secs(10)).await;
        assert!(is_cut(&connections[1]));
        sleep(Duration::from_secs(60)).await;
        assert!(!is_cut(&connections[0]), "it is asked with every heartbeat");
        stop.cancel();
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(hub.clone().run(stop.clone()), test) } => {}
        () = async { while idle.piece().await {} std::future::pending().await } => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_one_frame_slowly_is_cut_off_only_when_it_takes_nothing_more() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(Config { unread_timeout: Duration::from_secs(40), ..config() }, vec![]);
    let connection = Connection::default();
    // What of a frame is not in the socket keeps its body from being asked for more.
    let request = Request { connection: Some(connection.clone()), ..wants(&[">"], None) };
    let _client = hub.subscribe(request).await.unwrap();
    let is_cut = || connection.poll_cut(&Context::from_waker(Waker::noop())).is_ready();
    let test = async {
        for _ in 0..20 {
            sleep(Duration::from_secs(15)).await;
            connection.moved();
        }
        assert!(!is_cut(), "it is slow, and reads");
        sleep(Duration::from_secs(60)).await;
        assert!(is_cut());
    };
    tokio::select! {
        () = hub.clone().run(CancellationToken::new()) => {}
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_far_behind_in_the_ring_needs_no_reader() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(Config { ring: RingLimits { entries_max: 1_000, bytes_max: 1 << 20 }, ..config() }, vec![]);
    let mut client = listen(&hub, &["a"], None).await;
    client.piece().await;
    for n in 0..400 {
        log.append("EVENTS", if n % 2 == 0 { "a" } else { "b" });
    }
    sleep(Duration::from_secs(1)).await;
    client.events(200).await;
    assert_eq!(client.data(), (1..=400).step_by(2).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(log.reads.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_gap_before_a_shared_piece_is_told_only_to_those_who_stand_before_it() {
    let log = MemoryLog::new(&["EVENTS"]);
    let hub = log.hub(Config { readers_max: 1, ..config() }, vec![]);
    (0..100).for_each(|_| {
        log.append("EVENTS", "a");
    });
    log.purge_below("EVENTS", 50);
    let mut before = listen(&hub, &[">"], Some("EVENTS:10")).await;
    let mut after = listen(&hub, &[">"], Some("EVENTS:55")).await;
    let (told, came) = tokio::join!(before.events(52), after.events(45));
    assert_eq!(told[0].1, "gap");
    assert_eq!(before.data(), numbers(50..=100));
    assert!(came.iter().all(|(_, kind, _)| kind == "a"), "{came:?}");
    assert_eq!(after.data(), numbers(56..=100));
}
