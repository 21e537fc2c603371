//! Judging, keeping and sharing answers, with look-ups that the test answers itself.

use std::sync::atomic::AtomicU32;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

/// A resolver that finds what `look` says.
fn resolver(look: fn(&str) -> io::Result<Vec<IpAddr>>, valid_for: Duration) -> Resolver {
    Resolver::with(Box::new(move |host| std::future::ready(Found { addresses: look(host), valid_for }).boxed()))
}

async fn vetted(resolver: &Resolver, host: &str) -> Result<Vec<SocketAddr>, Error> {
    resolver.vetted(host, 443, &Policy::default()).await
}

fn one(_: &str) -> io::Result<Vec<IpAddr>> {
    Ok(ips(&["1.1.1.1"]))
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

#[tokio::test]
async fn one_refused_address_refuses_the_name() {
    let look = |host: &str| {
        Ok(ips(if host == "good.example" { &["1.1.1.1", "2606:4700::1"] } else { &["1.1.1.1", "::ffff:10.0.0.1"] }))
    };
    let resolver = resolver(look, HOUR);
    let found = vetted(&resolver, "good.example").await.expect("let through");
    assert_eq!(found.iter().map(SocketAddr::to_string).collect::<Vec<_>>(), ["1.1.1.1:443", "[2606:4700::1]:443"]);
    let refused = vetted(&resolver, "bad.example").await;
    assert!(matches!(refused, Err(Error::Refused(Refused { reason: "private" }))));
    assert!(resolver.found("bad.example", 3128).await.is_ok(), "what the operator names is not judged");
}

#[tokio::test]
async fn addresses_are_judged_without_a_look_up() {
    let resolver = resolver(|host| panic!("{host} is no name"), HOUR);
    assert!(vetted(&resolver, "1.1.1.1").await.is_ok());
    assert!(vetted(&resolver, "[2606:4700::1]").await.is_ok());
    for host in ["127.0.0.1", "[::1]", "[::ffff:10.0.0.1]"] {
        assert!(matches!(vetted(&resolver, host).await, Err(Error::Refused(_))), "{host}");
    }
}

#[tokio::test]
async fn no_address_is_no_success() {
    let resolver = resolver(|_| Ok(Vec::new()), HOUR);
    assert!(matches!(vetted(&resolver, "empty.example").await, Err(Error::Nothing)));
}

static LOOKUPS: AtomicU32 = AtomicU32::new(0);

#[tokio::test(start_paused = true)]
async fn callers_share_a_look_up_and_its_answer_for_as_long_as_it_holds_within_bounds() {
    let counting = |host: &str| {
        LOOKUPS.fetch_add(1, Ordering::Relaxed);
        match host {
            "a.example" => one(host),
            "nothing.example" => Ok(Vec::new()),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    };
    let look_ups = async |resolver: &Resolver, host: &str| {
        let before = LOOKUPS.load(Ordering::Relaxed);
        let (first, second) = tokio::join!(vetted(resolver, host), vetted(resolver, host));
        assert_eq!(first.is_ok(), second.is_ok());
        LOOKUPS.load(Ordering::Relaxed) - before
    };
    for (host, says, kept) in [
        ("a.example", Duration::from_secs(60), Duration::from_secs(60)),
        ("a.example", Duration::ZERO, ANSWER_AGE_MIN),
        ("a.example", HOUR, ANSWER_AGE_MAX),
        ("nothing.example", HOUR, NOTHING_AGE_MAX),
        ("broken.example", HOUR, FAILURE_AGE_MAX),
    ] {
        let resolver = resolver(counting, says);
        assert_eq!(look_ups(&resolver, host).await, 1, "{host}");
        tokio::time::advance(kept - Duration::from_millis(10)).await;
        assert_eq!(look_ups(&resolver, host).await, 0, "{host} for {kept:?}");
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(look_ups(&resolver, host).await, 1, "{host} after {kept:?}");
    }
}

#[tokio::test]
async fn too_many_look_ups_are_refused_and_counted_as_ours() {
    let resolver = resolver(one, HOUR);
    let all = Arc::clone(&resolver.0.lookups).try_acquire_many_owned(LOOKUPS_MAX as u32).expect("all are free");
    assert!(matches!(vetted(&resolver, "a.example").await, Err(Error::Busy)));
    drop(all);
    assert!(vetted(&resolver, "a.example").await.is_ok());
}

#[tokio::test]
async fn kept_names_are_bounded() {
    let resolver = resolver(one, HOUR);
    for n in 0..NAMES_MAX + 10 {
        assert!(vetted(&resolver, &format!("{n}.example")).await.is_ok());
    }
    assert!(resolver.0.names.lock().len() <= NAMES_MAX);
}

#[test]
fn each_turn_begins_with_another_address_of_the_preferred_family_and_goes_on_with_the_other() {
    let addresses = ips(&["2606:4700::1", "1.1.1.1", "2606:4700::2"]);
    let firsts: Vec<String> = (0..3).map(|turn| interleaved(&addresses, turn)[0].to_string()).collect();
    assert_eq!(firsts, ["2606:4700::1", "2606:4700::2", "2606:4700::1"]);
    for turn in 0..3 {
        let mut all = interleaved(&addresses, turn);
        assert!(all[1].is_ipv4());
        all.sort_unstable();
        let mut expected = addresses.clone();
        expected.sort_unstable();
        assert_eq!(all, expected);
    }
    assert!(interleaved(&[], 3).is_empty());
}
