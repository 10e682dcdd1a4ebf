//! How much memory the process may have: measured against the machine, a size, or no limit.

use toml::Value;

use super::setting::{Setting, refusal};
use super::values::split_size;

/// The memory watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryLimit {
    /// A share of what the machine or the container gives.
    Auto,
    /// None.
    Off,
    /// So many bytes.
    Bytes(u64),
}

impl Setting for MemoryLimit {
    fn wanted() -> String {
        "\"auto\", \"off\" or a size such as \"512 MiB\" or \"8 GiB\"".to_owned()
    }

    fn read(value: &Value) -> Result<Self, String> {
        let bytes = match value {
            Value::String(text) if text.trim() == "auto" => return Ok(MemoryLimit::Auto),
            Value::String(text) if text.trim() == "off" => return Ok(MemoryLimit::Off),
            Value::String(text) => {
                let (number, unit) = split_size(text);
                number.parse::<u64>().ok().and_then(|number| number.checked_mul(u64::from(unit)))
            }
            Value::Integer(bytes) => u64::try_from(*bytes).ok(),
            _ => None,
        };
        match bytes {
            Some(0) => Ok(MemoryLimit::Off),
            Some(bytes) => Ok(MemoryLimit::Bytes(bytes)),
            None => Err(refusal::<Self>(value)),
        }
    }

    fn show(&self) -> Option<String> {
        match self {
            MemoryLimit::Auto => "auto".to_owned().show(),
            MemoryLimit::Off => "off".to_owned().show(),
            MemoryLimit::Bytes(bytes) => Some(bytes.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_word_or_a_size_of_any_length() {
        let read = |text: &str| MemoryLimit::read(&Value::String(text.to_owned()));
        assert_eq!(read("auto"), Ok(MemoryLimit::Auto));
        assert_eq!(read("off"), Ok(MemoryLimit::Off));
        assert_eq!(MemoryLimit::read(&Value::Integer(0)), Ok(MemoryLimit::Off));
        assert_eq!(read("64 GiB"), Ok(MemoryLimit::Bytes(64 << 30)));
        assert_eq!(read("1000"), Ok(MemoryLimit::Bytes(1000)));
        for wrong in ["", "much", "-1", "1 TB", "18446744073709551615 GiB"] {
            let said = read(wrong).unwrap_err();
            assert!(said.contains("\"auto\""), "{wrong:?}: {said}");
        }
        for limit in [MemoryLimit::Auto, MemoryLimit::Off, MemoryLimit::Bytes(5)] {
            let shown: toml::Table = format!("x = {}", limit.show().unwrap()).parse().unwrap();
            assert_eq!(MemoryLimit::read(&shown["x"]), Ok(limit));
        }
    }
}
