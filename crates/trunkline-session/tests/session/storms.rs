//! The two engines against each other in a world that cuts, delays, kills and wipes, judged by the checker.

use std::time::Duration;

use trunkline_proto::codes::Advice;
use trunkline_proto::wire::{PublishRequest, Verdict};
use trunkline_session::SessionConfig;
use trunkline_session::client::{ClientConfig, Request};

use crate::world::{Dice, Kind, Summary, Weather, World};

/// What may happen while a storm lasts.
#[derive(Debug, Clone, Copy)]
struct Storm {
    clients: usize,
    steps: u64,
    /// 1 in so many steps cuts a client's link; 0 never.
    cut_one_in: u64,
    kill_one_in: u64,
    wipe: bool,
    /// Seconds of the longest pause between two steps.
    pause_ms: u64,
}

const MILD: Storm =
    Storm { clients: 3, steps: 150, cut_one_in: 6, kill_one_in: 0, wipe: false, pause_ms: 60 };

fn step(world: &mut World, dice: &mut Dice, storm: Storm) {
    let client = usize::try_from(dice.upto(storm.clients as u64 - 1)).unwrap();
    let room = format!("room:{}", dice.upto(2));
    match dice.upto(13) {
        0 | 1 => world.push("all"),
        2 | 3 => world.push(&format!("user:u{client}")),
        4 => world.push(&room),
        5 | 6 => world.call(client, Kind::Plain),
        7 => world.call(client, Kind::Ordered),
        8 => world.call(client, Kind::Quiet),
        9 => world.request(client, Request::Subscribe { channel: room, since: None }),
        10 => world.request(client, Request::Unsubscribe { channel: room }),
        11 => {
            let data = format!("published-{}", dice.next()).into();
            let publish = PublishRequest { channel: room, data, ..PublishRequest::default() };
            world.request(client, Request::Publish(publish));
        }
        12 => world.join(client, &format!("service:{}", dice.upto(1))),
        _ => world.withdraw(client, &format!("service:{}", dice.upto(1))),
    }
    if storm.cut_one_in > 0 && dice.one_in(storm.cut_one_in) {
        world.cut(client);
    }
    if storm.kill_one_in > 0 && dice.one_in(storm.kill_one_in) {
        world.kill_node(storm.wipe);
    }
    let pause = dice.millis(0, storm.pause_ms);
    world.run_for(pause);
}

fn storm(seed: u64, weather: Weather, storm: Storm) -> (Summary, World) {
    let mut world = World::new(seed, weather, storm.clients);
    let mut dice = Dice::new(seed ^ 0xabcd);
    for _ in 0..storm.steps {
        step(&mut world, &mut dice, storm);
    }
    let summary = world.settle();
    assert!(world.running_most() <= 8, "{} calls ran at once", world.running_most());
    assert!(world.dropped.is_empty(), "seed {seed}: {:?}", world.dropped);
    let away = (0..storm.clients).filter(|client| world.last_lost(*client) == Some(Advice::StayAway)).count();
    assert_eq!(away, 0, "seed {seed}: nobody else has logged in");
    (summary, world)
}

/// Many seeds; the sums show that the storm was one.
fn storms(seeds: std::ops::Range<u64>, weather: &Weather, with: Storm) -> Summary {
    let mut sum = Summary::default();
    for seed in seeds {
        let (summary, _) = storm(seed, weather.clone(), with);
        sum.accepted += summary.accepted;
        sum.delivered += summary.delivered;
        sum.gaps += summary.gaps;
        sum.told_lost += summary.told_lost;
        sum.replies += summary.replies;
        sum.unknown += summary.unknown;
        sum.bound += summary.bound;
    }
    sum
}

#[test]
fn a_calm_world_delivers_everything_and_knows_every_result() {
    let sum = storms(0..20, &Weather::default(), Storm { cut_one_in: 0, ..MILD });
    assert_eq!((sum.gaps, sum.told_lost, sum.unknown), (0, 0, 0), "{sum:?}");
    assert!(sum.delivered > 1000 && sum.replies > 500 && sum.bound > 100, "{sum:?}");
}

#[test]
fn s1_s2_c1_cuts_at_any_frame_lose_nothing_and_run_nothing_twice() {
    let sum = storms(100..160, &Weather::default(), MILD);
    assert_eq!((sum.told_lost, sum.unknown), (0, 0), "same node, whole history: {sum:?}");
    assert!(sum.delivered > 3000 && sum.replies > 1000 && sum.bound > 300, "{sum:?}");
}

#[test]
fn s3_a_window_that_is_passed_is_told_with_its_exact_range() {
    let weather = Weather { window: 3, link_room: 2, ..Weather::default() };
    let sum = storms(200..240, &weather, MILD);
    assert!(sum.told_lost > 100 && sum.delivered > 1000, "{sum:?}");
    assert_eq!(sum.unknown, 0, "{sum:?}");
}

#[test]
fn h1_a_killed_node_loses_sessions_and_tells_results_as_unknown() {
    let with = Storm { kill_one_in: 25, ..MILD };
    let sum = storms(300..340, &Weather::default(), with);
    assert!(sum.unknown > 20 && sum.replies > 500, "{sum:?}");
    let wiped = storms(400..440, &Weather::default(), Storm { wipe: true, ..with });
    assert!(wiped.told_lost > 20, "{wiped:?}");
}

#[test]
fn a_small_cache_makes_results_unknown_and_never_double() {
    let config = SessionConfig { reply_cache: 900, ..SessionConfig::default() };
    let weather = Weather { config, ..Weather::default() };
    let sum = storms(500..530, &weather, Storm { cut_one_in: 3, ..MILD });
    assert!(sum.unknown > 0 && sum.replies > 300, "{sum:?}");
}

#[test]
fn sessions_that_outlast_their_window_are_fresh_with_what_they_lost_told() {
    let config = SessionConfig { resume_window: Duration::from_millis(300), ..SessionConfig::default() };
    let weather = Weather { config, ..Weather::default() };
    let with = Storm { pause_ms: 200, ..MILD };
    let mut fresh = 0;
    for seed in 600..630 {
        let (_, world) = storm(seed, weather.clone(), with);
        fresh += (0..with.clients).map(|client| world.verdicts(client).len()).sum::<usize>();
        let again = |client| {
            world.verdicts(client).iter().skip(1).filter(|verdict| **verdict == Verdict::Fresh).count()
        };
        fresh += (0..with.clients).map(again).sum::<usize>() * 1000;
    }
    assert!(fresh > 10_000, "sessions were lost and begun anew: {fresh}");
}

#[test]
fn c1_a_lost_first_start_resp_loses_no_push_that_was_accepted_since() {
    let weather = Weather { owed_from_begin: true, ..Weather::default() };
    let mut again = 0;
    for seed in 800..900 {
        let mut world = World::new(seed, weather.clone(), 4);
        let mut dice = Dice::new(seed);
        for _ in 0..60 {
            let client = usize::try_from(dice.upto(3)).unwrap();
            world.push(&format!("user:u{client}"));
            world.push("all");
            if dice.one_in(4) {
                world.cut(client);
            }
            let pause = dice.millis(0, 40);
            world.run_for(pause);
        }
        assert_eq!(world.settle().told_lost, 0);
        again += (0..4).filter(|client| world.verdicts(*client)[..] != [Verdict::Fresh]).count();
        assert_eq!(world.sessions(), 4, "each client has one session, however often it had to begin");
    }
    assert!(again > 100, "{again}");
}

#[test]
fn starts_that_arrive_after_their_client_has_gone_on_lock_nobody_out() {
    let weather =
        Weather { start_timeout: Duration::from_millis(150), most_delay_ms: 200, ..Weather::default() };
    let with = Storm { cut_one_in: 4, ..MILD };
    let sum = storms(900..940, &weather, with);
    assert_eq!((sum.told_lost, sum.unknown), (0, 0), "{sum:?}");
    // And where the session that a late START names has gone meanwhile.
    storms(940..980, &weather, Storm { kill_one_in: 12, ..with });
}

#[test]
fn o3_two_devices_of_one_user_see_one_order() {
    for seed in 700..720 {
        let mut world = World::new(seed, Weather::default(), 0);
        for (instance, device) in [(1, "a"), (2, "b")] {
            world.add_client(ClientConfig {
                user: "u0".into(),
                device_id: device.into(),
                instance,
                ..ClientConfig::default()
            });
        }
        world.calm();
        let mut dice = Dice::new(seed);
        for _ in 0..100 {
            world.push("user:u0");
            if dice.one_in(8) {
                world.cut(usize::try_from(dice.upto(1)).unwrap());
            }
            let pause = dice.millis(0, 50);
            world.run_for(pause);
        }
        let summary = world.settle();
        assert_eq!(
            (summary.delivered, summary.told_lost),
            (200, 0),
            "each got each, in the order of acceptance"
        );
    }
}

#[test]
fn a_duplicate_login_ends_the_older_client_and_only_it() {
    let mut world = World::new(7, Weather::default(), 1);
    world.run_for(Duration::from_secs(2));
    assert!(world.is_live(0));
    world.call(0, Kind::Plain);
    let second = world.add_client(ClientConfig {
        user: "u0".into(),
        device_id: "d".into(),
        instance: 999,
        ..ClientConfig::default()
    });
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.last_lost(0), Some(Advice::StayAway));
    assert!(world.is_live(second) && !world.is_live(0));
    assert_eq!(world.sessions(), 1);
    world.push("user:u0");
    world.settle();
}

#[test]
fn s9_stopped_clients_leave_nothing_behind() {
    let mut world = World::new(8, Weather::default(), 20);
    world.run_for(Duration::from_secs(2));
    for client in 0..20 {
        world.call(client, Kind::Plain);
        world.run_for(Duration::from_millis(30));
        world.stop(client);
    }
    world.run_for(Duration::from_secs(5));
    assert_eq!((world.sessions(), world.budget_used()), (0, 0));
}
