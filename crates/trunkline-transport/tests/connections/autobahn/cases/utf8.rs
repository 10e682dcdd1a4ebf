//! Section 6: text is UTF-8, and what is not is refused as soon as it is known.

use super::{Case, fragments};
use crate::autobahn::peer::{Event, Peer};

/// κόσμε
pub(super) const KOSME: &[u8] = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5";

pub(super) fn utf8(peer: Peer) -> Vec<Case> {
    let greeting = "Hello-µ@ßöäüàá-UTF-8!!";
    let (head, tail) = ("Hello-µ@ßöä", "üàá-UTF-8!!");
    let middle = b"middle frame payload";
    let surrogate = [KOSME, b"\xed\xa0\x80", b"edited"].concat();
    let mut cases = vec![
        Case::new("6.1.1").send(peer.frame(1, b"")).expect(Event::text("")),
        Case::new("6.1.2")
            .send([peer.fragment(1, b""), peer.fragment(0, b""), peer.frame(0, b"")].concat())
            .expect(Event::text("")),
        Case::new("6.1.3")
            .send([peer.fragment(1, b""), peer.fragment(0, middle), peer.frame(0, b"")].concat())
            .expect(Event::text(middle)),
        Case::new("6.2.1").send(peer.frame(1, greeting.as_bytes())).expect(Event::text(greeting)),
        Case::new("6.2.2")
            .send([peer.fragment(1, head.as_bytes()), peer.frame(0, tail.as_bytes())].concat())
            .expect(Event::text(greeting)),
        Case::new("6.2.3").send(fragments(peer, 1, greeting.as_bytes(), 1)).expect(Event::text(greeting)),
        Case::new("6.2.4").send(fragments(peer, 1, KOSME, 1)).expect(Event::text(KOSME)),
        Case::new("6.3.1").send(peer.frame(1, &surrogate)).fails(&[1007]),
        Case::new("6.3.2").send(fragments(peer, 1, &surrogate, 1)).fails(&[1007]),
    ];
    cases.extend(fail_fast(peer));
    for (i, group) in sequences().into_iter().enumerate() {
        for (j, (valid, payload)) in group.into_iter().enumerate() {
            let case = Case::new(format!("6.{}.{}", i + 5, j + 1)).send(peer.frame(1, &payload));
            cases.push(if valid { case.expect(Event::text(payload)) } else { case.fails(&[1007]) });
        }
    }
    cases
}

/// 6.4: text becomes invalid in the second part, which must be refused before the third is sent; so it never is.
fn fail_fast(peer: Peer) -> [Case; 4] {
    let beyond = b"\xf4\x90\x80\x80";
    let whole = [KOSME, beyond, b"edited"].concat();
    // One frame without FIN around the whole text, as the suite's streaming interface writes it.
    let framed = peer.fragment(1, &whole);
    let header = framed.len() - whole.len();
    let cut = |n: usize| framed[..header + n].to_vec();
    let between = |from: usize, to: usize| framed[header + from..header + to].to_vec();
    [
        Case::new("6.4.1").send(peer.fragment(1, KOSME)).quiet().send(peer.fragment(0, beyond)),
        Case::new("6.4.2")
            .send(peer.fragment(1, &whole[..12]))
            .quiet()
            .send(peer.fragment(0, &whole[12..13])),
        Case::new("6.4.3").send(cut(11)).quiet().send(between(11, 15)),
        Case::new("6.4.4").send(cut(12)).quiet().send(between(12, 13)),
    ]
    .map(|case| case.fails(&[1007]))
}

/// 6.5–6.23: the UTF-8 decoder stress test of Markus Kuhn, in the suite's order.
fn sequences() -> Vec<Vec<(bool, Vec<u8>)>> {
    let texts = ["hello$world", "hello¢world", "hello€world", "hello𤭢world"].map(str::as_bytes);
    let prefixes =
        (1..=KOSME.len()).map(|n| (matches!(n, 2 | 5 | 7 | 9 | 11), KOSME[..n].to_vec())).collect();
    let mut boundaries = valid(&[b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf"]);
    boundaries.extend(invalid(&[b"\xf4\x90\x80\x80"]));
    let mut unexpected: Vec<_> = (1..=6).map(|n| (false, b"\x80\xbf".repeat(3)[..n].to_vec())).collect();
    unexpected.insert(1, (false, b"\xbf".to_vec()));
    unexpected.push((false, (0x80..0xBF).collect()));
    let lonely = [(0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7), (0xF8, 0xFB), (0xFC, 0xFD)]
        .map(|(from, to)| (false, (from..to).flat_map(|byte| [byte, b' ']).collect()));
    vec![
        valid(&[&texts[..], &[KOSME]].concat()),
        prefixes,
        valid(&[b"\x00", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"]),
        invalid(&[b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"]),
        valid(&[b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"]),
        invalid(&[b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"]),
        boundaries,
        unexpected,
        lonely.to_vec(),
        invalid(&LAST_BYTE_MISSING),
        vec![(false, LAST_BYTE_MISSING.concat())],
        invalid(&[b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"]),
        // Overlong: a slash, the largest, NUL; in two to six bytes.
        overlong(|i| (if i == 0 { 0xC0 } else { 0 }, 0x80, 0xAF)),
        overlong(|i| (if i == 0 { 0xC1 } else { 0 }, [0xBF, 0x9F, 0x8F, 0x87, 0x83][i], 0xBF)),
        overlong(|i| (if i == 0 { 0xC0 } else { 0 }, 0x80, 0x80)),
        invalid(&SURROGATES),
        paired_surrogates(),
        non_characters(),
        (0xB9..=0xBFu8).map(|last| (true, vec![0xEF, 0xBF, last])).collect(),
    ]
}

/// Overlong forms in two to six bytes: `parts` of each gives the first byte if it is special, the second, and
/// the last; what lies between is the last byte if that is the largest, else 0x80.
fn overlong(parts: impl Fn(usize) -> (u8, u8, u8)) -> Vec<(bool, Vec<u8>)> {
    (0..5)
        .map(|i| {
            let (first, second, last) = parts(i);
            let first = if first == 0 { [0xC0, 0xE0, 0xF0, 0xF8, 0xFC][i] } else { first };
            let mut bytes = vec![first];
            if i > 0 {
                bytes.push(second);
                bytes.resize(i + 1, if last == 0xBF { 0xBF } else { 0x80 });
            }
            bytes.push(last);
            (false, bytes)
        })
        .collect()
}

const LAST_BYTE_MISSING: [&[u8]; 10] = [
    b"\xc0",
    b"\xe0\x80",
    b"\xf0\x80\x80",
    b"\xf8\x80\x80\x80",
    b"\xfc\x80\x80\x80\x80",
    b"\xdf",
    b"\xef\xbf",
    b"\xf7\xbf\xbf",
    b"\xfb\xbf\xbf\xbf",
    b"\xfd\xbf\xbf\xbf\xbf",
];

const SURROGATES: [&[u8]; 7] = [
    b"\xed\xa0\x80",
    b"\xed\xad\xbf",
    b"\xed\xae\x80",
    b"\xed\xaf\xbf",
    b"\xed\xb0\x80",
    b"\xed\xbe\x80",
    b"\xed\xbf\xbf",
];

fn paired_surrogates() -> Vec<(bool, Vec<u8>)> {
    let mut out = Vec::new();
    for high in [b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf"] {
        for low in [b"\xed\xb0\x80", b"\xed\xbf\xbf"] {
            out.push((false, [&high[..], low].concat()));
        }
    }
    out
}

fn non_characters() -> Vec<(bool, Vec<u8>)> {
    let mut out = valid(&[b"\xef\xbf\xbe", b"\xef\xbf\xbf"]);
    for first in 0xF0..=0xF4u8 {
        for second in [0x8F, 0x9F, 0xAF, 0xBF] {
            let overlong = first == 0xF0 && second == 0x8F;
            let beyond = first == 0xF4 && second != 0x8F;
            if !overlong && !beyond {
                out.extend([0xBE, 0xBF].map(|last| (true, vec![first, second, 0xBF, last])));
            }
        }
    }
    out
}

fn valid(sequences: &[&[u8]]) -> Vec<(bool, Vec<u8>)> {
    sequences.iter().map(|bytes| (true, bytes.to_vec())).collect()
}

fn invalid(sequences: &[&[u8]]) -> Vec<(bool, Vec<u8>)> {
    sequences.iter().map(|bytes| (false, bytes.to_vec())).collect()
}

#[test]
fn the_stress_test_is_the_suites() {
    let groups = sequences();
    let counts: Vec<_> = groups.iter().map(Vec::len).collect();
    assert_eq!(counts, [5, 11, 4, 2, 4, 3, 5, 8, 5, 10, 1, 3, 5, 5, 5, 7, 8, 34, 7]);
    // What the generated ones should be, written out.
    assert_eq!(
        groups[7][..7].iter().map(|(_, bytes)| &bytes[..]).collect::<Vec<_>>(),
        [
            &b"\x80"[..],
            b"\xbf",
            b"\x80\xbf",
            b"\x80\xbf\x80",
            b"\x80\xbf\x80\xbf",
            b"\x80\xbf\x80\xbf\x80",
            b"\x80\xbf\x80\xbf\x80\xbf"
        ]
    );
    let overlong = |group: usize| groups[group].iter().map(|(_, bytes)| &bytes[..]).collect::<Vec<_>>();
    assert_eq!(
        overlong(12),
        [
            &b"\xc0\xaf"[..],
            b"\xe0\x80\xaf",
            b"\xf0\x80\x80\xaf",
            b"\xf8\x80\x80\x80\xaf",
            b"\xfc\x80\x80\x80\x80\xaf"
        ]
    );
    assert_eq!(
        overlong(13),
        [
            &b"\xc1\xbf"[..],
            b"\xe0\x9f\xbf",
            b"\xf0\x8f\xbf\xbf",
            b"\xf8\x87\xbf\xbf\xbf",
            b"\xfc\x83\xbf\xbf\xbf\xbf"
        ]
    );
    assert_eq!(overlong(14)[4], b"\xfc\x80\x80\x80\x80\x80");
    // The standard library agrees with every verdict.
    for (valid, bytes) in groups.concat() {
        assert_eq!(std::str::from_utf8(&bytes).is_ok(), valid, "{bytes:02x?}");
    }
}
