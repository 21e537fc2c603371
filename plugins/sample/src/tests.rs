//! Unit tests, and the fixtures.

use serde_json::json;
use sluiced_sdk::test::{Fixtures, event};

use super::*;

fn sample(config: &Value) -> Result<Sample, String> {
    sluiced_sdk::component::make(&config.to_string()).map_err(|error| error.to_string())
}

fn keeps(sample: &mut Sample, customer: u32) -> bool {
    let event = event("a").json(json!({ "customer": customer }).to_string()).build();
    sample.keep(&event).unwrap() == Verdict::Keep
}

#[test]
fn fixtures() {
    Fixtures::new("fixtures").filter::<Sample>().run();
}

#[test]
fn the_share_is_kept_and_a_larger_one_has_the_smaller_one_in_it() {
    let make = |percent| sample(&json!({ "percent": percent, "pointer": "/customer" })).unwrap();
    let (mut ten, mut half) = (make(10.0), make(50.0));
    let kept: Vec<u32> = (0..10_000).filter(|n| keeps(&mut ten, *n)).collect();
    assert!((900..1_100).contains(&kept.len()), "{}", kept.len());
    assert!(kept.iter().all(|n| keeps(&mut half, *n)));
}

#[test]
fn none_and_all_are_exact_and_another_salt_draws_anew() {
    let (mut none, mut all) = (sample(&json!({ "percent": 0 })).unwrap(), sample(&json!({ "percent": 100 })).unwrap());
    let draws: Vec<_> = (0..500).map(|n| event("a").id(format!("e{n}")).build()).collect();
    assert!(draws.iter().all(|event| none.keep(event).unwrap() != Verdict::Keep));
    assert!(draws.iter().all(|event| all.keep(event).unwrap() == Verdict::Keep));
    let mut one = sample(&json!({ "percent": 50 })).unwrap();
    let mut other = sample(&json!({ "percent": 50, "salt": "b" })).unwrap();
    assert!(draws.iter().any(|event| one.keep(event).unwrap() != other.keep(event).unwrap()));
}

#[test]
fn a_wrong_configuration_is_told() {
    for (config, word) in [
        (json!({ "percent": 101 }), "percent"),
        (json!({ "percent": 1, "pointer": "customer" }), "pointer"),
        (json!({ "percent": 1, "header": "" }), "header"),
        (json!({ "percent": 1, "pointer": "/a", "header": "b" }), "one place"),
    ] {
        let error = sample(&config).err().unwrap();
        assert!(error.contains(word), "{error}");
    }
}
