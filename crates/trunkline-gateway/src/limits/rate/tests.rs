//! The promises of the call rate in virtual time: exact in every tenth of a second, and fair among users.

use std::num::NonZeroU32;

use super::*;

fn rate(per_second: u32, burst: u32) -> Rate {
    let number = |n| NonZeroU32::new(n).unwrap();
    Rate::new(CallLimit { per_second: number(per_second), burst: number(burst) }, Duration::ZERO)
}

fn admitted(rate: &Rate, millis: u64) -> bool {
    rate.admit(Duration::from_millis(millis), &Share::default()).is_ok()
}

/// Users that call at rates of their own, from their begin on; how many calls of each were let in, by tenths of a
/// second.
struct Load {
    users: Vec<(Share, f64, f64)>,
    let_in: Vec<Vec<u32>>,
    sent: Vec<u32>,
}

impl Load {
    fn of(rates: &[f64]) -> Self {
        let user = |rate: &f64| (Share::default(), *rate, 0.0);
        Load {
            users: rates.iter().map(user).collect(),
            let_in: vec![Vec::new(); rates.len()],
            sent: vec![0; rates.len()],
        }
    }

    fn starts_at(mut self, user: usize, seconds: f64) -> Self {
        self.users[user].2 = seconds;
        self
    }

    /// Evenly spaced calls, and the users' evenly between each other's.
    fn run(mut self, rate: &Rate, seconds: u32) -> Self {
        let mut calls = Vec::new();
        for (at, (_, per_second, begin)) in self.users.iter().enumerate() {
            let count = ((f64::from(seconds) - begin) * per_second) as u32;
            let shift = at as f64 / self.users.len() as f64 / per_second;
            calls.extend((0..count).map(|n| (begin + shift + f64::from(n) / per_second, at)));
        }
        calls.sort_by(|a, b| a.0.total_cmp(&b.0));
        for tenths in &mut self.let_in {
            tenths.resize(seconds as usize * 10 + 1, 0);
        }
        for (time, user) in calls {
            self.sent[user] += 1;
            if rate.admit(Duration::from_secs_f64(time), &self.users[user].0).is_ok() {
                self.let_in[user][(time * 10.0) as usize] += 1;
            }
        }
        self
    }

    fn total(&self, tenth: usize) -> u32 {
        self.let_in.iter().map(|tenths| tenths[tenth]).sum()
    }

    fn of_user(&self, user: usize) -> u32 {
        self.let_in[user].iter().sum()
    }
}

#[test]
fn a_burst_passes_and_then_one_per_interval() {
    let rate = rate(10, 5);
    assert_eq!((0..20).filter(|_| admitted(&rate, 1_000)).count(), 5);
    let denied = rate.admit(Duration::from_millis(1_060), &Share::default()).unwrap_err();
    assert_eq!(denied, Denied { why: RequestRefusal::CallRate, wait: Duration::from_millis(40) });
    assert!(admitted(&rate, 1_100) && !admitted(&rate, 1_100));
    // A refused call costs nothing: whoever waits as told is let in.
    assert!(admitted(&rate, 1_200));
}

/// The seed's window let 2.5 times the limit through for its first half, and nothing for its second.
#[test]
fn l1_a_constant_overload_passes_at_the_limit_in_every_tenth_of_a_second() {
    let limit = 2_000_u32;
    for factor in [0.5, 1.0, 1.25, 5.0, 20.0] {
        for users in [1, 7, 60, 300] {
            let each = f64::from(limit) * factor / f64::from(users);
            let rate = rate(limit, limit);
            let load = Load::of(&vec![each; users as usize]).run(&rate, 10);
            let sent: u32 = load.sent.iter().sum();
            let passed: u32 = (0..users as usize).map(|user| load.of_user(user)).sum();
            if factor <= 1.0 {
                assert_eq!(passed, sent, "{factor} times the limit by {users} users: nothing is refused");
                continue;
            }
            // At 1.25 times the limit the burst lasts four seconds.
            let spent = (f64::from(limit) / (f64::from(limit) * (factor - 1.0))).ceil() as usize + 1;
            // Not every user's last call falls into the last tenth.
            for tenth in spent * 10..99 {
                let passed = load.total(tenth);
                assert!(
                    (190..=210).contains(&passed),
                    "{factor} times the limit by {users} users: {passed} calls in tenth {tenth}"
                );
            }
        }
    }
}

#[test]
fn a_user_within_its_share_is_never_refused_and_nothing_is_left_unused() {
    let rate = rate(1_000, 1_000);
    // One user in a hundred sessions at twenty times the limit, against nine at less than a tenth of it each.
    let mut rates = vec![20_000.0];
    rates.extend([80.0, 5.0, 90.0, 1.0, 60.0, 70.0, 33.0, 50.0, 11.0]);
    let load = Load::of(&rates).run(&rate, 10);
    for (user, per_second) in rates.iter().enumerate().skip(1) {
        assert_eq!(load.of_user(user), load.sent[user], "{per_second} calls a second");
    }
    let others: u32 = (1..rates.len()).map(|user| load.of_user(user)).sum();
    let all = load.of_user(0) + others;
    assert!((10_490..=10_500).contains(&all), "half of the burst, and ten seconds at the rate: {all}");
}

#[test]
fn a_user_who_comes_late_finds_its_share() {
    let rate = rate(1_000, 1_000);
    let load = Load::of(&[20_000.0, 300.0]).starts_at(1, 5.0).run(&rate, 10);
    assert_eq!(load.of_user(1), load.sent[1]);
}

#[test]
fn users_who_all_want_too_much_get_a_share_each() {
    let rate = rate(1_000, 1_000);
    // One of them twenty times as much as the others.
    let mut rates = vec![500.0; 10];
    rates[0] = 10_000.0;
    let load = Load::of(&rates).run(&rate, 20);
    for user in 0..10 {
        let each = load.of_user(user);
        assert!(each >= 1_750, "user {user} has {each} of 20,500, and a share is 1,818");
    }
}

#[test]
fn many_threads_together_get_no_more_than_the_burst() {
    let rate = rate(1, 1_000);
    let passed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..1_000).filter(|_| admitted(&rate, 5)).count())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, 1_000);
}

#[test]
fn the_more_were_refused_the_later_they_come_again() {
    let rate = rate(100, 1);
    let share = Share::default();
    let ask = |millis: u64| rate.admit(Duration::from_millis(millis), &share);
    assert!(ask(0).is_ok());
    // 300 are refused in the first second: three seconds' worth of the rate.
    assert_eq!((0..300).filter(|_| ask(1).is_err()).count(), 300);
    assert!(ask(1_000).is_ok());
    assert_eq!(ask(1_000).unwrap_err().wait, Duration::from_secs(3));
    assert!((0..10_000).all(|_| ask(1_000).is_err()));
    assert!(ask(2_000).is_ok());
    assert_eq!(ask(2_000).unwrap_err().wait, LONGEST_WAIT);
    assert!(ask(9_000).is_ok());
    assert_eq!(ask(9_000).unwrap_err().wait, Duration::from_millis(10));
}
