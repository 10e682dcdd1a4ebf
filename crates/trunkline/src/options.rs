//! The libraries' options, made from the configuration. What a library can refuse is refused here by the library's own
//! check, so that `trunkline check` and a start agree.

use std::ops::RangeInclusive;

use trunkline_gateway::upstream::{HealthOptions, Registration, Route, UpstreamOptions};
use trunkline_gateway::zone::{Zone, ZoneError, ZoneMap};
use trunkline_proto::wire::UpstreamRegisterRequest;

use crate::config::{Config, Instance, Upstreams};

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
    Ok(UpstreamOptions {
        zones,
        routes: routes.collect(),
        statics,
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
        }];
        let options = upstream_options(&config).unwrap();
        assert_eq!(options.call_timeout, Duration::from_secs(7));
        assert_eq!(options.routes, [Route { prefix: "pay.".into(), service: "payments".into() }]);
        assert_eq!(options.max_in_flight_total, Some(100));
        assert_eq!(options.health.slow_after, None);
        assert_eq!((options.statics[0].weight, options.statics[0].session_events), (3, true));
        assert_eq!(options.statics[0].zone.as_str(), "001");
    }
}
