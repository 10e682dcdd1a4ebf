//! The numbers and names of sessions, each a type of its own so that none can stand for another.
//!
//! None is made here: random values and counters are inputs.

use std::fmt;
use std::str::FromStr;

/// A session, on every node and for as long as anybody remembers it: 128 random bits.
///
/// Written as 32 lower-case hexadecimal digits; hyphens are accepted when reading, since a seed client may have
/// formatted it as a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u128);

/// The text is not a [`SessionId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a session id: 32 hexadecimal digits are expected")]
pub struct BadSessionId;

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for SessionId {
    type Err = BadSessionId;

    fn from_str(text: &str) -> Result<Self, BadSessionId> {
        // At most 32 digits and 4 hyphens: a longer text is refused before it is copied.
        if text.len() > 36 {
            return Err(BadSessionId);
        }
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(BadSessionId);
        }
        u128::from_str_radix(&digits, 16).map(SessionId).map_err(|_| BadSessionId)
    }
}

/// One live transport link of this node; never used again within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// Who owns a session: rises with each of its STARTs; of two the later one wins, a stale one is refused.
///
/// The broker's counter is compared first, then the node: two nodes that were told the same number by a broker that
/// lost its mind still agree on who is later. Clients see the counter alone, which stays below 2^53 (JSON numbers):
/// brokers begin it at their clock in microseconds, and that gets there in the year 2255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fence {
    /// The number's halves, the higher one first, so that a fence is 12 bytes large and not 16.
    number: [u32; 2],
    node: u16,
}

impl Fence {
    /// The largest counter that a JSON number holds.
    pub const MAX_NUMBER: u64 = (1 << 53) - 1;

    /// A counter of the broker, given to a node; `None` where the counter is used up.
    pub const fn new(number: u64, node: u16) -> Option<Self> {
        if number > Self::MAX_NUMBER {
            return None;
        }
        // Both halves: the cut is meant.
        Some(Fence { number: [(number >> u32::BITS) as u32, number as u32], node })
    }

    /// The broker's counter, as `StartResponse.fence` has it.
    pub const fn number(self) -> u64 {
        let [high, low] = self.number;
        (high as u64) << u32::BITS | low as u64
    }

    /// The node that accepted the START.
    pub const fn node(self) -> u16 {
        self.node
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.number(), self.node())
    }
}

/// The number of a call within its session (`ClientRequest.seq_id`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ClientSeq(pub u64);

impl fmt::Display for ClientSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A delivery number of protocol 0 (`ServerPush.seq_id`): from 1, without holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_compare_as_number_then_node_and_stay_below_2_pow_53() {
        let fence = |number, node| Fence::new(number, node).unwrap();
        assert!(fence(1, 65_535) < fence(2, 0));
        assert!(fence(2, 1) < fence(2, 2));
        assert_eq!((fence(9, 3).number(), fence(9, 3).node()), (9, 3));
        assert!(fence(Fence::MAX_NUMBER, u16::MAX).number() < 1 << 53);
        assert_eq!(Fence::new(Fence::MAX_NUMBER + 1, 0), None);
    }

    #[test]
    fn session_ids_are_read_as_written_and_nothing_else_is() {
        let id = SessionId(0x018f_0000_0000_0000_0000_0000_0000_00ab);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("018f0000-0000-0000-0000-0000000000ab".parse(), Ok(id));
        for bad in ["", "1", "+18f00000000000000000000000000ab", "018f000000000000000000000000000g"] {
            assert_eq!(bad.parse::<SessionId>(), Err(BadSessionId), "{bad}");
        }
        assert_eq!("-".repeat(1 << 20).parse::<SessionId>(), Err(BadSessionId));
    }
}
