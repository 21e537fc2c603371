//! Judging, keeping and sharing answers, with look-ups that the test answers itself.

use std::sync::atomic::AtomicU32;

use super::*;

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

#[tokio::test]
async fn one_refused_address_refuses_the_name() {
    let resolver = Resolver::with(Policy::default(), |host| {
        Ok(ips(if host == "good.example" { &["1.1.1.1", "2606:4700::1"] } else { &["1.1.1.1", "::ffff:10.0.0.1"] }))
    });
    assert_eq!(resolver.vetted("good.example").await.expect("let through").len(), 2);
    assert!(matches!(resolver.vetted("bad.example").await, Err(Error::Refused(Refused { reason: "private" }))));
}

#[tokio::test]
async fn no_address_is_a_failed_look_up() {
    let resolver = Resolver::with(Policy::default(), |_| Ok(Vec::new()));
    assert!(matches!(resolver.vetted("empty.example").await, Err(Error::Lookup(_))));
}

#[tokio::test(start_paused = true)]
async fn callers_share_a_look_up_and_its_answer_for_a_while() {
    static LOOKUPS: AtomicU32 = AtomicU32::new(0);
    let resolver = Resolver::with(Policy::default(), |_| {
        LOOKUPS.fetch_add(1, Ordering::Relaxed);
        Ok(ips(&["1.1.1.1"]))
    });
    let (first, second) = tokio::join!(resolver.vetted("a.example"), resolver.vetted("a.example"));
    assert!(first.is_ok() && second.is_ok());
    assert!(resolver.vetted("a.example").await.is_ok());
    assert_eq!(LOOKUPS.load(Ordering::Relaxed), 1);
    tokio::time::advance(ANSWER_AGE_MAX).await;
    assert!(resolver.vetted("a.example").await.is_ok());
    assert_eq!(LOOKUPS.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn too_many_look_ups_are_refused_and_counted_as_ours() {
    let resolver = Resolver::with(Policy::default(), |_| Ok(ips(&["1.1.1.1"])));
    let all = Arc::clone(&resolver.0.lookups).try_acquire_many_owned(LOOKUPS_MAX as u32).expect("all are free");
    assert!(matches!(resolver.vetted("a.example").await, Err(Error::Busy)));
    drop(all);
    assert!(resolver.vetted("a.example").await.is_ok());
}

#[tokio::test]
async fn kept_names_are_bounded() {
    let resolver = Resolver::with(Policy::default(), |_| Ok(ips(&["1.1.1.1"])));
    for n in 0..NAMES_MAX + 10 {
        assert!(resolver.vetted(&format!("{n}.example")).await.is_ok());
    }
    assert!(resolver.0.names.lock().len() <= NAMES_MAX);
}

#[test]
fn each_turn_begins_with_another_address_of_the_preferred_family() {
    let addresses = ips(&["2606:4700::1", "1.1.1.1", "2606:4700::2"]);
    let firsts: Vec<String> = (0..3).map(|turn| rotated(&addresses, turn)[0].ip().to_string()).collect();
    assert_eq!(firsts, ["2606:4700::1", "2606:4700::2", "2606:4700::1"]);
    for turn in 0..3 {
        let mut all: Vec<IpAddr> = rotated(&addresses, turn).iter().map(SocketAddr::ip).collect();
        assert!(all[2].is_ipv4());
        all.sort_unstable();
        let mut expected = addresses.clone();
        expected.sort_unstable();
        assert_eq!(all, expected);
    }
    assert!(rotated(&[], 3).is_empty());
}
