//! Which zone a user belongs to: the seed's hash, its ranges of numeric users, or an explicit map.
//!
//! A [`ZoneMap`] is a pure value: it knows no upstream, and it never fails for a user. What it refuses is a
//! configuration that would leave a user without a zone, and names that are no zones of its own.

use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;

use md5::{Digest, Md5};

/// The seed's number of zones.
pub const SEED_ZONES: u32 = 6;
/// Zone names have three digits, so that they sort and look as in the seed.
const MAX_ZONES: u32 = 999;

/// The name of a zone: `001`, or whatever an explicit map says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Zone(String);

impl Zone {
    /// The zone with this number: `001` for 1.
    pub fn numbered(number: u32) -> Self {
        Zone(format!("{number:03}"))
    }

    /// A zone by its name. Whether it exists is for [`ZoneMap::contains`] to say.
    pub fn named(name: impl Into<String>) -> Self {
        Zone(name.into())
    }

    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A zone map that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZoneError {
    /// The count is outside of what three digits can name.
    #[error("the zone count must be 1 to {MAX_ZONES}, not {0}")]
    Count(u32),
    /// A range ends before it begins.
    #[error("zone range {0}-{1} ends before it begins")]
    Backwards(u64, u64),
    /// Two ranges share users, so that a user would have two zones.
    #[error("zone ranges {0} and {1} overlap")]
    Overlap(String, String),
    /// `*` and the empty name mean something else.
    #[error("{0:?} cannot be the name of a zone")]
    Name(String),
}

/// Users to zones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneMap {
    count: u32,
    /// Sorted by their first user, disjoint.
    ranges: Vec<(RangeInclusive<u64>, Zone)>,
    users: HashMap<String, Zone>,
}

impl Default for ZoneMap {
    fn default() -> Self {
        ZoneMap { count: SEED_ZONES, ranges: Vec::new(), users: HashMap::new() }
    }
}

impl ZoneMap {
    /// The seed's hash over `count` zones.
    ///
    /// # Errors
    /// [`ZoneError::Count`] unless `count` is 1 to 999.
    pub fn hashed(count: u32) -> Result<Self, ZoneError> {
        if count == 0 || count > MAX_ZONES {
            return Err(ZoneError::Count(count));
        }
        Ok(ZoneMap { count, ..ZoneMap::default() })
    }

    /// The ranges that three documents of the seed give, where its code hashes: 10000-24999 is `001` and so on in
    /// steps of 15000 to 85000-99999, `006`. Users outside of them, and users that are no numbers, are hashed.
    pub fn seed_ranges() -> Self {
        let ranges = (0..u64::from(SEED_ZONES)).zip(1..).map(|(at, number)| {
            let first = 10_000 + at * 15_000;
            (first..=first + 14_999, Zone::numbered(number))
        });
        ZoneMap { ranges: ranges.collect(), ..ZoneMap::default() }
    }

    /// Adds ranges of numeric users, which go before the hash.
    ///
    /// # Errors
    /// An empty range, two that overlap, or a name that no zone can have.
    pub fn with_ranges(
        mut self,
        ranges: impl IntoIterator<Item = (RangeInclusive<u64>, Zone)>,
    ) -> Result<Self, ZoneError> {
        self.ranges.extend(ranges);
        self.ranges.sort_by_key(|(range, _)| *range.start());
        for (range, zone) in &self.ranges {
            check_name(zone)?;
            if range.is_empty() {
                return Err(ZoneError::Backwards(*range.start(), *range.end()));
            }
        }
        for pair in self.ranges.windows(2) {
            let (before, after) = (&pair[0].0, &pair[1].0);
            if after.start() <= before.end() {
                return Err(ZoneError::Overlap(show(before), show(after)));
            }
        }
        Ok(self)
    }

    /// Adds single users, which go before ranges and the hash.
    ///
    /// # Errors
    /// A name that no zone can have.
    pub fn with_users(mut self, users: impl IntoIterator<Item = (String, Zone)>) -> Result<Self, ZoneError> {
        self.users.extend(users);
        self.users.values().try_for_each(check_name)?;
        Ok(self)
    }

    /// The user's zone: the explicit map, then the ranges, then the hash.
    pub fn zone_of(&self, user: &str) -> Zone {
        if let Some(zone) = self.users.get(user) {
            return zone.clone();
        }
        self.in_range(user).unwrap_or_else(|| Zone::numbered(hash(user) % self.count + 1))
    }

    /// Is there such a zone?
    pub fn contains(&self, zone: &Zone) -> bool {
        let hashed = zone.0.len() == 3
            && zone.0.bytes().all(|byte| byte.is_ascii_digit())
            && zone.0.parse().is_ok_and(|number: u32| (1..=self.count).contains(&number));
        hashed || self.ranges.iter().any(|(_, of)| of == zone) || self.users.values().any(|of| of == zone)
    }

    /// Every zone, sorted, each once: for messages that name the right ones.
    pub fn zones(&self) -> Vec<Zone> {
        let mut zones: Vec<Zone> = (1..=self.count).map(Zone::numbered).collect();
        zones.extend(self.ranges.iter().map(|(_, zone)| zone.clone()));
        zones.extend(self.users.values().cloned());
        zones.sort();
        zones.dedup();
        zones
    }

    fn in_range(&self, user: &str) -> Option<Zone> {
        // `+7` and `007` parse as 7, and are other users.
        let number: u64 = user.parse().ok().filter(|number: &u64| number.to_string() == user)?;
        let at = self.ranges.partition_point(|(range, _)| *range.end() < number);
        self.ranges.get(at).filter(|(range, _)| range.contains(&number)).map(|(_, zone)| zone.clone())
    }
}

/// The seed's hash: the first four bytes of MD5, big-endian. MD5 spreads here, it protects nothing.
fn hash(user: &str) -> u32 {
    let digest = Md5::digest(user.as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

fn check_name(zone: &Zone) -> Result<(), ZoneError> {
    match zone.0.as_str() {
        "" | "*" | "all" => Err(ZoneError::Name(zone.0.clone())),
        name if name.contains('/') => Err(ZoneError::Name(zone.0.clone())),
        _ => Ok(()),
    }
}

fn show(range: &RangeInclusive<u64>) -> String {
    format!("{}-{}", range.start(), range.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(map: &ZoneMap, user: &str) -> String {
        map.zone_of(user).to_string()
    }

    #[test]
    fn w4_zone_vectors_of_the_seed() {
        let map = ZoneMap::default();
        for (user, expected) in [
            ("10001", "004"),
            ("15000", "005"),
            ("30000", "004"),
            ("45000", "001"),
            ("99999", "003"),
            ("alice", "003"),
        ] {
            assert_eq!(zone(&map, user), expected, "{user}");
        }
    }

    #[test]
    fn w4_a_million_users_spread_within_one_percent() {
        let map = ZoneMap::default();
        let mut users: HashMap<Zone, i64> = HashMap::new();
        for user in 0..1_000_000 {
            *users.entry(map.zone_of(&user.to_string())).or_default() += 1;
        }
        assert_eq!(users.len(), 6);
        for (zone, count) in users {
            let off = (count - 1_000_000 / 6).abs();
            assert!(off <= 1_000_000 / 600, "zone {zone} has {count} users");
        }
    }

    #[test]
    fn w4_ranges_of_the_seeds_documents() {
        let map = ZoneMap::seed_ranges();
        for (user, expected) in [
            ("10000", "001"),
            ("24999", "001"),
            ("25000", "002"),
            ("39999", "002"),
            ("84999", "005"),
            ("85000", "006"),
            ("99999", "006"),
        ] {
            assert_eq!(zone(&map, user), expected, "{user}");
        }
        for hashed in ["9999", "100000", "alice", "010000", "+10000", "", "99999999999999999999999"] {
            assert_eq!(map.zone_of(hashed), ZoneMap::default().zone_of(hashed), "{hashed}");
        }
    }

    #[test]
    fn an_explicit_user_goes_before_ranges_and_hash() {
        let map = ZoneMap::seed_ranges()
            .with_users([("alice".into(), Zone::named("vip")), ("10000".into(), Zone::numbered(6))])
            .unwrap();
        assert_eq!(zone(&map, "alice"), "vip");
        assert_eq!(zone(&map, "10000"), "006");
        assert!(map.contains(&Zone::named("vip")));
        assert_eq!(map.zones().len(), 7);
    }

    #[test]
    fn only_zones_of_the_map_are_contained() {
        let map = ZoneMap::hashed(12).unwrap();
        assert!(map.contains(&Zone::named("012")));
        for name in ["013", "000", "1", "0001", "+01", "", "*", "abc"] {
            assert!(!map.contains(&Zone::named(name)), "{name}");
        }
    }

    #[test]
    fn a_map_that_leaves_doubt_is_refused() {
        assert_eq!(ZoneMap::hashed(0), Err(ZoneError::Count(0)));
        assert_eq!(ZoneMap::hashed(1_000), Err(ZoneError::Count(1_000)));
        let ranges = [(0..=9, Zone::numbered(1)), (9..=20, Zone::numbered(2))];
        assert!(matches!(ZoneMap::default().with_ranges(ranges), Err(ZoneError::Overlap(..))));
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
        let backwards = [(9..=0, Zone::numbered(1))];
        assert_eq!(ZoneMap::default().with_ranges(backwards), Err(ZoneError::Backwards(9, 0)));
        for name in ["", "*", "a/b"] {
            let users = [("u".to_owned(), Zone::named(name))];
            assert!(matches!(ZoneMap::default().with_users(users), Err(ZoneError::Name(_))), "{name}");
        }
    }
}
