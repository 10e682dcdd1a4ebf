//! When a certificate ends: the one field of X.509 that a person has to be warned of.
//!
//! It parses nothing else and trusts nothing. The Validity of RFC 5280 section 4.1.2.5 is a SEQUENCE of two times,
//! and nothing else in a certificate looks like that.

use std::time::{Duration, SystemTime};

const SEQUENCE: u8 = 0x30;
/// `YYMMDDHHMMSSZ`, years 1950 to 2049.
const UTC_TIME: u8 = 0x17;
/// `YYYYMMDDHHMMSSZ`.
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate in DER; `None` where it is not found.
pub(super) fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    (0..certificate.len()).find_map(|at| {
        let [SEQUENCE, length, content @ ..] = &certificate[at..] else { return None };
        let content = content.get(..usize::from(*length))?;
        let (_, rest) = time(content)?;
        let (end, rest) = time(rest)?;
        rest.is_empty().then_some(end)
    })
}

/// A time at the front, and what follows it.
fn time(bytes: &[u8]) -> Option<(SystemTime, &[u8])> {
    let [tag, length, rest @ ..] = bytes else { return None };
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, text) = match (*tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i64 = text[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let two = |at: usize| text[at..at + 2].parse::<i64>().ok();
    let days = days_since_1970(year, two(0)?, two(2)?)?;
    let seconds = days * 86_400 + two(4)? * 3_600 + two(6)? * 60 + two(8)?;
    let since = Duration::from_secs(u64::try_from(seconds).ok()?);
    Some((SystemTime::UNIX_EPOCH.checked_add(since)?, rest))
}

/// Days of the Gregorian calendar, counted in years that begin in March, so that the leap day is the last
/// (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use trunkline_transport::certificate::self_signed;

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (date, days) in [
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 21), 20_778),
            ((2100, 3, 1), 47_541),
        ] {
            assert_eq!(days_since_1970(date.0, date.1, date.2), Some(days), "{date:?}");
        }
        assert_eq!(days_since_1970(2026, 13, 1), None);
    }

    #[test]
    fn the_end_of_our_own_certificates_is_found() {
        let made = self_signed(&[]).unwrap();
        let der = CertificateDer::from_pem_slice(made.certificate_pem.as_bytes()).unwrap();
        let end = not_after(&der).unwrap();
        let apart = end.duration_since(made.expires).unwrap_or_else(|error| error.duration());
        assert!(apart < Duration::from_secs(86_400), "{end:?} is not {:?}", made.expires);
        for cut in 0..der.len() {
            // Wherever it is cut, nothing panics.
            not_after(&der[..cut]);
        }
    }
}
