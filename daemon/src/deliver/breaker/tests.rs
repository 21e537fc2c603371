//! The breaker over single stories, and over random ones.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy(attempts_min: u32) -> BreakerPolicy {
    BreakerPolicy {
        failure_ratio: 0.5,
        attempts_min,
        window: SECOND * 30,
        probe_delay: SECOND,
        probe_delay_max: SECOND * 3,
    }
}

fn breaker() -> (Breaker, Instant) {
    (Breaker::new(policy(3)), Instant::now())
}

#[test]
fn opens_after_failures_in_a_row_and_probes_ever_more_rarely() {
    let (mut breaker, now) = breaker();
    assert_eq!(breaker.failed(now, None), Turn::None);
    assert_eq!(breaker.failed(now, None), Turn::None);
    assert_eq!(breaker.failed(now, None), Turn::Failing, "the third in a row opens it");
    assert_eq!(breaker.permit(now), Permit::None { until: now + SECOND });
    assert_eq!(breaker.failed(now, None), Turn::None, "one that was under way changes nothing");
    assert_eq!(breaker.permit(now + SECOND), Permit::One);
    breaker.failed(now + SECOND, None);
    assert_eq!(breaker.permit(now + SECOND), Permit::None { until: now + SECOND * 3 });
    breaker.failed(now + SECOND * 3, None);
    assert_eq!(breaker.permit(now + SECOND * 3), Permit::None { until: now + SECOND * 6 });
    breaker.not_tried(now + SECOND * 6);
    assert_eq!(breaker.permit(now + SECOND * 6), Permit::None { until: now + SECOND * 9 });
    assert_eq!(breaker.succeeded(now + SECOND * 9), Turn::Closed { had_failed: true });
    assert_eq!(breaker.permit(now), Permit::All);
}

#[test]
fn a_probe_that_is_refused_for_good_closes_it_and_other_refusals_say_nothing() {
    let (mut breaker, now) = breaker();
    (0..2).for_each(|_| assert_eq!(breaker.failed(now, None), Turn::None));
    assert_eq!(breaker.answered(now), Turn::None);
    assert_eq!(breaker.failed(now, None), Turn::Failing, "a refusal between two failures does not part them");
    assert_eq!(breaker.answered(now), Turn::None, "one that was under way is no probe");
    assert_eq!(breaker.answered(now + SECOND), Turn::Closed { had_failed: true });
    assert_eq!(breaker.failed(now + SECOND, None), Turn::None, "it begins anew");
}

#[test]
fn a_long_good_past_does_not_keep_a_dead_endpoint_closed() {
    let mut breaker = Breaker::new(policy(10));
    let now = Instant::now();
    (0..30_000).for_each(|_| assert_eq!(breaker.succeeded(now), Turn::None));
    (0..9).for_each(|_| assert_eq!(breaker.failed(now, None), Turn::None));
    assert_eq!(breaker.failed(now, None), Turn::Failing);
}

#[test]
fn ten_attempts_that_hang_one_after_the_other_open_it_although_no_window_holds_them() {
    let mut breaker = Breaker::new(policy(10));
    let now = Instant::now();
    let turns: Vec<Turn> = (1..=10).map(|n| breaker.failed(now + SECOND * 15 * n, None)).collect();
    assert_eq!(turns.iter().position(|turn| *turn == Turn::Failing), Some(9));
}

#[test]
fn half_of_the_attempts_failing_opens_it_and_a_few_among_successes_do_not() {
    let mut breaker = Breaker::new(policy(10));
    let now = Instant::now();
    for n in 0..200 {
        let at = now + SECOND * n / 10;
        let turn = if n % 5 == 0 { breaker.failed(at, None) } else { breaker.succeeded(at) };
        assert_eq!(turn, Turn::None);
    }
    // The good past leaves the window, and then every other one is enough.
    let later = now + SECOND * 60;
    let mut turns = (0..20).map(|n| if n % 2 == 0 { breaker.failed(later, None) } else { breaker.succeeded(later) });
    assert!(turns.any(|turn| turn == Turn::Failing));
}

#[test]
fn a_wish_to_be_left_alone_is_obeyed_at_once_and_is_no_failing() {
    let (mut breaker, now) = breaker();
    assert_eq!(breaker.failed(now, Some(SECOND * 7)), Turn::Paused);
    assert!(breaker.is_open() && !breaker.is_failing());
    assert_eq!(breaker.succeeded(now + SECOND), Turn::None, "what was under way does not end the wish");
    assert_eq!(breaker.permit(now + SECOND), Permit::None { until: now + SECOND * 7 });
    assert_eq!(breaker.permit(now + SECOND * 7), Permit::One);
    assert_eq!(breaker.succeeded(now + SECOND * 7), Turn::Closed { had_failed: false });
}

#[test]
fn a_pause_whose_probes_fail_becomes_a_failing_endpoint() {
    let (mut breaker, now) = breaker();
    assert_eq!(breaker.failed(now, Some(SECOND)), Turn::Paused);
    assert_eq!(breaker.failed(now + SECOND, None), Turn::None);
    assert_eq!(breaker.failed(now + SECOND * 4, None), Turn::Failing);
}

#[test]
fn one_that_was_failing_before_the_start_is_probed_at_once() {
    let now = Instant::now();
    let mut breaker = Breaker::probing(policy(3), now, true);
    assert_eq!(breaker.permit(now), Permit::One);
    assert_eq!(breaker.failed(now, None), Turn::None, "it was known");
    assert_eq!(breaker.permit(now), Permit::None { until: now + SECOND * 2 });
    assert_eq!(breaker.succeeded(now + SECOND * 2), Turn::Closed { had_failed: true });
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Ok,
    Refused,
    Fail(Option<u64>),
    NotTried,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..8_000).prop_map(Step::Wait),
        Just(Step::Ok),
        Just(Step::Refused),
        prop::option::weighted(0.2, 0u64..10_000).prop_map(Step::Fail),
        Just(Step::NotTried),
    ]
}

proptest! {
    #[test]
    fn its_promises_hold_over_random_stories(steps in prop::collection::vec(step(), 0..300), attempts_min in 1u32..12) {
        let policy = policy(attempts_min);
        let mut breaker = Breaker::new(policy);
        let mut now = Instant::now();
        let mut in_a_row = 0;
        // Until when some receiver asked to be left alone.
        let mut asked_until = now;
        for step in steps {
            let before = breaker.permit(now);
            let was_failing = breaker.is_failing();
            match step {
                Step::Wait(ms) => now += Duration::from_millis(ms),
                Step::Ok | Step::Refused => {
                    let took = matches!(step, Step::Ok);
                    if took || before == Permit::One {
                        in_a_row = 0;
                    }
                    let turn = if took { breaker.succeeded(now) } else { breaker.answered(now) };
                    prop_assert_eq!(turn == Turn::Closed { had_failed: was_failing }, before == Permit::One);
                    if before == Permit::One {
                        prop_assert_eq!(breaker.permit(now), Permit::All);
                    }
                }
                Step::Fail(asked) => {
                    in_a_row += u32::from(!matches!(before, Permit::None { .. }));
                    let turn = breaker.failed(now, asked.map(Duration::from_millis));
                    asked_until = asked_until.max(now + Duration::from_millis(asked.unwrap_or(0)));
                    prop_assert_eq!(turn == Turn::Failing, breaker.is_failing() && !was_failing);
                    if before == Permit::One {
                        let bounds = now + policy.probe_delay..=(now + policy.probe_delay_max).max(asked_until);
                        let Permit::None { until } = breaker.permit(now) else { panic!("a probe that fails is followed by a wait") };
                        prop_assert!(bounds.contains(&until));
                    }
                }
                Step::NotTried => breaker.not_tried(now),
            }
            prop_assert!(!breaker.is_failing() || breaker.is_open(), "a failing endpoint is never sent everything");
            prop_assert!(in_a_row < attempts_min || breaker.is_open(), "so many in a row open it");
            prop_assert!(asked_until <= now || breaker.permit(now) != Permit::All, "a wish is obeyed");
            prop_assert!(breaker.window.slices.len() <= SLICES as usize + 1, "what it remembers is bounded");
            let sum = breaker.window.slices.iter().fold((0, 0), |(a, f), s| (a + s.attempts, f + s.failures));
            prop_assert_eq!(sum, (breaker.window.attempts, breaker.window.failures));
        }
    }

    #[test]
    fn below_the_ratio_and_without_a_row_it_never_opens(failing in prop::collection::vec(0u32..4, 1..400)) {
        // At most one of four fails: of ten in a window, or of more, never half.
        let mut breaker = Breaker::new(policy(10));
        let mut now = Instant::now();
        for which in failing {
            for n in 0..4 {
                now += Duration::from_millis(50);
                let turn = if n == which { breaker.failed(now, None) } else { breaker.succeeded(now) };
                prop_assert_eq!(turn, Turn::None);
            }
        }
    }
}
