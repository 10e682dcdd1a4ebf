//! The types that keys have: surfaces, durations, sizes, words, and in `collections` lists and tables, each read from
//! TOML or from text.
//!
//! Everything is parsed here into its final type, so that no later code meets a text that it has to doubt. Nothing
//! here knows which key a value is for.

mod collections;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

pub(crate) use self::collections::{Item, Members};
use super::setting::{Setting, refusal};

/// Where a surface listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surface {
    /// Not at all.
    Off,
    /// On this port of the surface's usual host. Port 0 takes any free one.
    Port(u16),
    /// On exactly this address.
    At(SocketAddr),
}

impl Surface {
    /// The address to bind, where a bare port is taken on `host`. `None` when the surface is off.
    pub(crate) fn on(self, host: IpAddr) -> Option<SocketAddr> {
        match self {
            Surface::Off => None,
            Surface::Port(port) => Some(SocketAddr::new(host, port)),
            Surface::At(address) => Some(address),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "off" {
            return Some(Surface::Off);
        }
        if let Ok(port) = text.parse() {
            return Some(Surface::Port(port));
        }
        // `:8453` means all interfaces, as in the seed's configuration.
        if let Some(port) = text.strip_prefix(':') {
            return Some(Surface::At(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port.parse().ok()?)));
        }
        // No resolver at start: a name that resolves to another address tomorrow is not where we listen.
        if let Some(port) = text.strip_prefix("localhost:") {
            return Some(Surface::At(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.parse().ok()?)));
        }
        text.parse().ok().map(Surface::At)
    }
}

impl Setting for Surface {
    fn wanted() -> String {
        "an address such as 127.0.0.1:8080, a port, or \"off\"".to_owned()
    }

    fn read(value: &Value) -> Result<Self, String> {
        let surface = match value {
            Value::String(text) => Surface::parse(text.trim()),
            Value::Integer(port) => u16::try_from(*port).ok().map(Surface::Port),
            _ => None,
        };
        surface.ok_or_else(|| refusal::<Self>(value))
    }

    fn show(&self) -> Option<String> {
        match self {
            Surface::Off => "off".to_owned().show(),
            Surface::Port(port) => Some(port.to_string()),
            Surface::At(address) => address.to_string().show(),
        }
    }
}

impl Setting for IpAddr {
    fn wanted() -> String {
        "an IP address such as 127.0.0.1 or 0.0.0.0".to_owned()
    }

    fn read(value: &Value) -> Result<Self, String> {
        let text =
            value.as_str().map(str::trim).map(|text| if text == "localhost" { "127.0.0.1" } else { text });
        text.and_then(|text| text.parse().ok()).ok_or_else(|| refusal::<Self>(value))
    }

    fn show(&self) -> Option<String> {
        self.to_string().show()
    }
}

impl Setting for bool {
    fn wanted() -> String {
        "true or false".to_owned()
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Boolean(flag) => Ok(*flag),
            Value::String(text) if text == "true" => Ok(true),
            Value::String(text) if text == "false" => Ok(false),
            _ => Err(refusal::<Self>(value)),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

macro_rules! count {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn wanted() -> String {
                format!("a number from 0 to {}", <$type>::MAX)
            }

            fn read(value: &Value) -> Result<Self, String> {
                let number = match value {
                    Value::Integer(number) => <$type>::try_from(*number).ok(),
                    Value::String(text) => text.trim().replace('_', "").parse().ok(),
                    _ => None,
                };
                number.ok_or_else(|| refusal::<Self>(value))
            }

            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}
count!(u32, usize);

impl Setting for Duration {
    fn wanted() -> String {
        "a duration with its unit, such as \"30s\", \"250ms\" or \"1h30m\"".to_owned()
    }

    fn read(value: &Value) -> Result<Self, String> {
        value.as_str().and_then(parse_duration).ok_or_else(|| refusal::<Self>(value))
    }

    fn show(&self) -> Option<String> {
        show_duration(*self).show()
    }
}

/// `1h30m`, `250ms`, `1.5s`, `0s`. A bare number is refused: nobody remembers which unit it had.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit..];
    }
    // Whole milliseconds, so that 0.1 s is what it says.
    Some(Duration::from_millis(u64::try_from((total + Duration::from_micros(500)).as_millis()).ok()?))
}

/// The largest unit that shows the duration as a whole number.
pub(crate) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let whole = units.iter().find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit));
    match whole {
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None if millis == 0 => "0s".to_owned(),
        None => format!("{millis}ms"),
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u32);

impl ByteSize {
    const UNITS: [(&'static str, u32); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
}

/// The number of a size, as it is written, and its unit in bytes.
pub(super) fn split_size(text: &str) -> (&str, u32) {
    let text = text.trim();
    let (number, unit) = ByteSize::UNITS
        .iter()
        .find_map(|(name, unit)| text.strip_suffix(name).map(|number| (number, *unit)))
        .unwrap_or((text.strip_suffix('B').unwrap_or(text), 1));
    (number.trim(), unit)
}

impl Setting for ByteSize {
    fn wanted() -> String {
        "a size up to 4 GiB, such as \"64 KiB\", \"1 MiB\" or a number of bytes".to_owned()
    }

    fn read(value: &Value) -> Result<Self, String> {
        let size = match value {
            Value::Integer(bytes) => u32::try_from(*bytes).ok(),
            Value::String(text) => {
                let (number, unit) = split_size(text);
                number.parse().ok().and_then(|number: u32| number.checked_mul(unit))
            }
            _ => None,
        };
        size.map(ByteSize).ok_or_else(|| refusal::<Self>(value))
    }

    fn show(&self) -> Option<String> {
        let whole = ByteSize::UNITS.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        match whole {
            Some((name, unit)) => format!("{} {name}", self.0 / unit).show(),
            None => Some(self.0.to_string()),
        }
    }
}

impl Setting for String {
    fn wanted() -> String {
        "a text".to_owned()
    }

    fn read(value: &Value) -> Result<Self, String> {
        value.as_str().map(str::to_owned).ok_or_else(|| refusal::<Self>(value))
    }

    fn show(&self) -> Option<String> {
        Some(Value::String(self.clone()).to_string())
    }
}

impl Setting for PathBuf {
    fn wanted() -> String {
        "a path".to_owned()
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some(text) if !text.is_empty() => Ok(PathBuf::from(text)),
            _ => Err(refusal::<Self>(value)),
        }
    }

    fn show(&self) -> Option<String> {
        self.display().to_string().show()
    }
}

impl<T: Setting> Setting for Option<T> {
    fn wanted() -> String {
        T::wanted()
    }

    fn read(value: &Value) -> Result<Self, String> {
        T::read(value).map(Some)
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn surfaces_are_addresses_ports_or_off() {
        let at = |address: &str| Ok(Surface::At(address.parse().unwrap()));
        assert_eq!(Surface::read(&text("off")), Ok(Surface::Off));
        assert_eq!(Surface::read(&text("8080")), Ok(Surface::Port(8080)));
        assert_eq!(Surface::read(&Value::Integer(0)), Ok(Surface::Port(0)));
        assert_eq!(Surface::read(&text(":8453")), at("0.0.0.0:8453"));
        assert_eq!(Surface::read(&text("localhost:80")), at("127.0.0.1:80"));
        assert_eq!(Surface::read(&text("[::1]:0")), at("[::1]:0"));
        for wrong in ["", "of", "127.0.0.1", "127.0.0.1:70000", ":", "example.org:80", "-1"] {
            assert!(Surface::read(&text(wrong)).is_err(), "{wrong:?} was taken");
        }
        assert!(Surface::read(&Value::Integer(70_000)).is_err());
        assert!(Surface::read(&Value::Boolean(false)).is_err());
    }

    #[test]
    fn durations_need_a_unit_and_show_as_they_were() {
        for (written, millis, shown) in [
            ("30s", 30_000, "30s"),
            ("1h30m", 5_400_000, "90m"),
            ("250ms", 250, "250ms"),
            ("1.5s", 1_500, "1500ms"),
            ("0s", 0, "0s"),
            ("2d", 172_800_000, "2d"),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(written), Some(duration), "{written}");
            assert_eq!(show_duration(duration), shown);
        }
        for wrong in ["", "30", "s", "30x", "-1s", "1.2.3s", "30s5", "99999999999999999999d", "∞s"] {
            assert_eq!(parse_duration(wrong), None, "{wrong:?} was taken");
        }
    }

    #[test]
    fn sizes_have_units_or_are_bytes() {
        for (written, bytes) in
            [("64 KiB", 65_536), ("1MiB", 1 << 20), ("12", 12), ("12 B", 12), ("3GiB", 3 << 30)]
        {
            assert_eq!(ByteSize::read(&text(written)), Ok(ByteSize(bytes)), "{written}");
        }
        for wrong in ["", "MiB", "1 MB", "-1", "4 GiB", "1.5 MiB"] {
            assert!(ByteSize::read(&text(wrong)).is_err(), "{wrong:?} was taken");
        }
        assert_eq!(ByteSize(65_536).show().as_deref(), Some("\"64 KiB\""));
        assert_eq!(ByteSize(1_000).show().as_deref(), Some("1000"));
    }
}
