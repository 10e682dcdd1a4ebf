//! The libraries' options, made from the configuration. What a library can refuse is refused here by the library's own
//! check, so that `trunkline check` and a start agree.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use trunkline_broker::HistoryLimits;
use trunkline_gateway::auth::{self, ChannelPattern, JwtOptions, LoginPolicy, Rights};
use trunkline_gateway::upstream::{HealthOptions, Registration, Route, UpstreamOptions, defaults};
use trunkline_gateway::zone::{Zone, ZoneError, ZoneMap};
use trunkline_gateway::{CallLimit, GatewayOptions, Namespace, TraceOptions};
use trunkline_proto::wire::UpstreamRegisterRequest;
use trunkline_session::{SessionConfig, TokenKey};

use crate::config::{Config, Instance, Jwt, Limits, Login, May, Right, Session, Upstreams};

/// Of the process's descriptors, the share that connections may have. Of the rest a 32nd of all is for pages, a 64th
/// for the handshakes of each of at most three TCP listeners, and what remains, a 50th, for upstreams and files.
const CONNECTIONS_PERCENT: usize = 90;

/// One in so many descriptors is for HTTP connections that are no client's.
const HTTP_SHARE: usize = 32;

/// One in so many descriptors is for the handshakes of one listener.
const HANDSHAKE_SHARE: usize = 64;

/// How many connections the metrics address has at once.
pub(crate) const METRICS_CONNECTIONS: usize = 64;

/// How many HTTP connections may be open at once besides those of clients.
pub(crate) fn http_connections(limits: &Limits, descriptors: usize) -> usize {
    limits.http_connections.unwrap_or(descriptors / HTTP_SHARE).max(1)
}

/// How many handshakes may be under way at once on one TCP listener.
pub(crate) fn handshakes(limits: &Limits, descriptors: usize) -> usize {
    limits.handshakes.min(descriptors / HANDSHAKE_SHARE).max(1)
}

/// Everything that shapes the gateway, for a node of this name that signs resume tokens with this key and may have
/// this many descriptors.
///
/// # Errors
/// As [`zone_map`].
pub(crate) fn gateway_options(
    config: &Config,
    node: &str,
    key: TokenKey,
    descriptors: usize,
) -> anyhow::Result<GatewayOptions> {
    let namespaces = config.namespaces.iter().map(|(name, namespace)| {
        let pattern = format!("{}*", namespace.prefix(name));
        Namespace {
            history: HistoryLimits {
                count: namespace.history_count,
                bytes: namespace.history_bytes.0 as usize,
                ttl: namespace.history_ttl,
            },
            presence: namespace.presence,
            rights: rights(&[Right { pattern: pattern.clone(), may: namespace.rights.clone() }]),
            pattern: ChannelPattern::new(pattern),
        }
    });
    let mut namespaces: Vec<Namespace> = namespaces.collect();
    // The gateway takes the first that covers a channel: of `room:` and `room:vip:`, the longer one.
    let length = |namespace: &Namespace| namespace.pattern.as_str().len();
    namespaces.sort_by_key(|namespace| std::cmp::Reverse(length(namespace)));
    let defaults = GatewayOptions::new(node, key);
    let limits = &config.limits;
    let connections = limits.connections.unwrap_or(descriptors / 100 * CONNECTIONS_PERCENT);
    Ok(GatewayOptions {
        session: session_config(&config.session, defaults.session),
        start_timeout: config.limits.start_timeout,
        default_rights: rights(&config.auth.default_rights()),
        login_policy: match config.auth.login {
            Login::Device => LoginPolicy::Device,
            Login::Platform => LoginPolicy::Platform,
            Login::One => LoginPolicy::One,
            Login::Refuse => LoginPolicy::Refuse,
            Login::Many => LoginPolicy::Many,
        },
        max_devices: config.auth.devices,
        namespaces,
        zones: zone_map(&config.upstreams).map_err(|(path, problem)| anyhow::anyhow!("{path}: {problem}"))?,
        max_connections: connections,
        max_sessions: limits
            .sessions
            .unwrap_or(connections.saturating_mul(trunkline_gateway::defaults::SESSIONS_PER_CONNECTION)),
        calls: call_limit(limits),
        calls_in_flight: limits.calls_in_flight,
        call_bytes: limits.call_bytes.0.into(),
        reply_cache_bytes: limits.reply_cache.0.into(),
        reply_queue_bytes: limits.reply_queue.0.into(),
        frames_per_address: limits.frames_per_address,
        warn_percent: limits.warn_percent,
        trace: TraceOptions { on: config.trace.on, bytes: config.trace.bytes.0 as usize },
        node: defaults.node,
        implicit_history: defaults.implicit_history,
        write_stall: defaults.write_stall,
    })
}

/// No limit at 0; the burst is one second's worth unless it is set.
fn call_limit(limits: &Limits) -> Option<CallLimit> {
    let per_second = NonZeroU32::new(limits.calls_per_second)?;
    let burst = limits.call_burst.and_then(NonZeroU32::new).unwrap_or(per_second);
    Some(CallLimit { per_second, burst })
}

fn session_config(session: &Session, defaults: SessionConfig) -> SessionConfig {
    SessionConfig {
        heartbeat: session.heartbeat,
        resume_window: session.resume_window,
        call_timeout: session.call_timeout,
        running_calls: session.running_calls,
        reply_cache: session.reply_cache.0 as usize,
        frames_per_second: session.frames_per_second,
        frame_burst: session.frame_burst,
        channels: session.channels,
        max_frame_size: session.max_frame_size.0,
        max_frame_size_down: session.max_frame_size_down.0,
        ..defaults
    }
}

fn rights(rights: &[Right]) -> Rights {
    let may = |may: &May| match may {
        May::Subscribe => auth::May::Subscribe,
        May::Publish => auth::May::Publish,
        May::History => auth::May::History,
        May::Presence => auth::May::Presence,
    };
    let line = |right: &Right| auth::Right {
        pattern: ChannelPattern::new(right.pattern.clone()),
        may: right.may.iter().map(may).collect(),
    };
    Rights(rights.iter().map(line).collect())
}

/// What is checked of a token beside its signature.
pub(crate) fn jwt_options(jwt: &Jwt) -> JwtOptions {
    JwtOptions {
        audience: jwt.audience.clone(),
        issuer: jwt.issuer.clone(),
        required: jwt.required_claims.clone(),
    }
}

/// Users to zones.
///
/// # Errors
/// The key that is wrong, and why.
pub(crate) fn zone_map(upstreams: &Upstreams) -> Result<ZoneMap, (&'static str, String)> {
    let told = |path| move |error: ZoneError| (path, error.to_string());
    let mut ranges = Vec::new();
    for (range, zone) in &upstreams.ranges {
        let parsed = parse_range(range)
            .ok_or_else(|| ("upstreams.ranges", format!("{range:?} is no range such as \"10000-24999\"")))?;
        ranges.push((parsed, Zone::named(zone.clone())));
    }
    let users = upstreams.users.iter().map(|(user, zone)| (user.clone(), Zone::named(zone.clone())));
    ZoneMap::hashed(upstreams.zones)
        .map_err(told("upstreams.zones"))?
        .with_ranges(ranges)
        .map_err(told("upstreams.ranges"))?
        .with_users(users)
        .map_err(told("upstreams.users"))
}

/// `10000-24999`. Whether it makes sense is for the zone map to say.
fn parse_range(text: &str) -> Option<RangeInclusive<u64>> {
    let (first, last) = text.split_once('-')?;
    Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
}

/// An upstream that does not register itself, as if it had.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn registration(instance: &Instance, zones: &ZoneMap) -> Result<Registration, String> {
    let request = UpstreamRegisterRequest {
        address: instance.address.clone(),
        zone_id: instance.zone.clone(),
        service_name: instance.service.clone(),
        weight: instance.weight,
        session_events: instance.session_events,
        idempotent_actions: instance.idempotent_actions.clone(),
        max_in_flight: instance.max_in_flight.unwrap_or(0),
        ..UpstreamRegisterRequest::default()
    };
    Registration::parse(&request, zones).map_err(|error| error.to_string())
}

/// How upstreams are reached, judged and limited.
///
/// # Errors
/// What is wrong; never for a configuration that was loaded, which was checked by the same code.
pub(crate) fn upstream_options(config: &Config) -> anyhow::Result<UpstreamOptions> {
    let upstreams = &config.upstreams;
    let zones = zone_map(upstreams).map_err(|(path, problem)| anyhow::anyhow!("{path}: {problem}"))?;
    let mut statics = Vec::new();
    for instance in &upstreams.instances {
        statics.push(registration(instance, &zones).map_err(anyhow::Error::msg)?);
    }
    let routes = upstreams
        .routes
        .iter()
        .map(|(prefix, service)| Route { prefix: prefix.clone(), service: service.clone() });
    let frame = config.session.max_frame_size.0 as usize;
    Ok(UpstreamOptions {
        zones,
        routes: routes.collect(),
        statics,
        max_reply: defaults::max_reply(frame),
        max_response: defaults::max_response(frame, config.session.max_frame_size_down.0 as usize),
        idempotent_actions: upstreams.idempotent.clone(),
        call_timeout: config.session.call_timeout,
        max_in_flight: upstreams.in_flight,
        max_in_flight_total: upstreams.in_flight_total,
        channels: upstreams.connections,
        lease: upstreams.lease,
        health: HealthOptions {
            probe_interval: upstreams.probe_interval,
            slow_after: (!upstreams.slow_after.is_zero()).then_some(upstreams.slow_after),
            ..HealthOptions::default()
        },
        ..UpstreamOptions::default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn users_go_before_ranges_and_ranges_before_the_hash() {
        let upstreams = Upstreams {
            ranges: map(&[("10000-24999", "001")]),
            users: map(&[("10001", "vip")]),
            ..Upstreams::default()
        };
        let zones = zone_map(&upstreams).unwrap();
        let zone = |user: &str| zones.zone_of(user).to_string();
        assert_eq!((zone("10001"), zone("10002"), zone("alice")), ("vip".into(), "001".into(), "003".into()));
    }

    #[test]
    fn what_the_library_refuses_is_told_by_key() {
        for (ranges, users, zones, path) in [
            (map(&[]), map(&[]), 0, "upstreams.zones"),
            (map(&[("5-9", "001"), ("7-8", "002")]), map(&[]), 6, "upstreams.ranges"),
            (map(&[("9-5", "001")]), map(&[]), 6, "upstreams.ranges"),
            (map(&[("all", "001")]), map(&[]), 6, "upstreams.ranges"),
            (map(&[]), map(&[("alice", "*")]), 6, "upstreams.users"),
        ] {
            let upstreams = Upstreams { zones, ranges, users, ..Upstreams::default() };
            assert_eq!(zone_map(&upstreams).unwrap_err().0, path);
        }
    }

    fn gateway(config: &Config) -> GatewayOptions {
        gateway_options(config, "a", TokenKey::new([1; 32]), 20_000).unwrap()
    }

    #[test]
    fn the_defaults_are_the_librarys() {
        let options = gateway(&Config::default());
        let own = GatewayOptions::new("a", TokenKey::new([1; 32]));
        assert_eq!(format!("{options:?}"), format!("{own:?}"));
    }

    #[test]
    fn gateway_settings_arrive_and_the_longer_prefix_goes_first() {
        let mut config = Config::default();
        config.session.resume_window = Duration::from_secs(5);
        config.limits.connections = Some(7);
        config.limits.calls_per_second = 20;
        config.limits.calls_in_flight = 9;
        config.limits.frames_per_address = 0;
        config.auth.login = Login::Refuse;
        config.auth.default_rights = vec![Right { pattern: "news".into(), may: vec![May::Subscribe] }];
        let namespace = |count| crate::config::Namespace {
            history_count: count,
            history_bytes: crate::config::ByteSize(7_000),
            history_ttl: Duration::from_secs(8),
            presence: false,
            rights: vec![May::History],
            ..Default::default()
        };
        config.namespaces =
            BTreeMap::from([("room".to_owned(), namespace(1)), ("room:vip".to_owned(), namespace(2))]);
        let options = gateway(&config);
        assert_eq!(options.session.resume_window, Duration::from_secs(5));
        assert_eq!((options.max_connections, options.login_policy), (7, LoginPolicy::Refuse));
        assert_eq!((options.max_sessions, options.calls_in_flight, options.frames_per_address), (28, 9, 0));
        let calls = options.calls.unwrap();
        assert_eq!((calls.per_second.get(), calls.burst.get()), (20, 20));
        assert!(options.default_rights.allow("news", auth::May::Subscribe));
        assert!(!options.default_rights.allow("news", auth::May::Publish));
        let counts: Vec<usize> = options.namespaces.iter().map(|namespace| namespace.history.count).collect();
        assert_eq!(counts, [2, 1]);
        let history = &options.namespaces[0].history;
        assert_eq!((history.bytes, history.ttl), (7_000, Duration::from_secs(8)));
        assert!(!options.namespaces[0].presence);
        assert!(options.namespaces[1].rights.allow("room:1", auth::May::History));
        assert!(!options.namespaces[1].rights.allow("hall:1", auth::May::History));
    }

    #[test]
    fn upstream_settings_arrive() {
        let mut config = Config::default();
        config.session.call_timeout = Duration::from_secs(7);
        config.upstreams.routes = map(&[("pay.", "payments")]);
        config.upstreams.in_flight_total = Some(100);
        config.upstreams.slow_after = Duration::ZERO;
        config.upstreams.instances = vec![Instance {
            address: "127.0.0.1:9001".into(),
            zone: "001".into(),
            service: String::new(),
            weight: 3,
            session_events: true,
            max_in_flight: Some(7),
            idempotent_actions: vec!["get*".into()],
        }];
        config.session.max_frame_size.0 = 64 * 1024;
        config.session.max_frame_size_down.0 = 128 * 1024;
        let options = upstream_options(&config).unwrap();
        assert_eq!(options.call_timeout, Duration::from_secs(7));
        assert_eq!(options.routes, [Route { prefix: "pay.".into(), service: "payments".into() }]);
        assert_eq!(options.max_in_flight_total, Some(100));
        assert_eq!(options.health.slow_after, None);
        assert_eq!((options.statics[0].weight, options.statics[0].session_events), (3, true));
        assert_eq!(options.statics[0].zone.as_str(), "001");
        assert_eq!(options.statics[0].max_in_flight, Some(7));
        assert_eq!(options.statics[0].idempotent_actions, ["get*"]);
        // A reply must fit a frame, and with its pushes a group.
        assert_eq!((options.max_reply, options.max_response), (63 * 1024, 124 * 1024));
    }
}
