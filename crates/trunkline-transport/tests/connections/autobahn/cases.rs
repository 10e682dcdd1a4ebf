//! What each case sends and what it expects, by number.

mod utf8;

use self::utf8::{KOSME, utf8};
use super::peer::{Event, Peer};

/// One case.
pub(crate) struct Case {
    pub(crate) number: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) expected: Vec<Event>,
    pub(crate) end: End,
    pub(crate) quick: bool,
}

/// What the peer does next.
pub(crate) enum Step {
    /// Write this in one piece.
    Write(Vec<u8>),
    /// Write this in pieces of that size.
    Chops(Vec<u8>, usize),
    /// Wait for the next expected event.
    Await,
    /// Nothing may come now.
    Quiet,
}

/// How the connection ends.
pub(crate) enum End {
    /// We close with 1000 once everything expected has come; the server answers with 1000.
    WeClose,
    /// The server closes, or answers a close that the steps have sent, with one of these codes or with none.
    /// Unless `clean`, it may also drop the connection.
    Closed { codes: Vec<u16>, clean: bool },
}

impl Case {
    pub(crate) fn new(number: impl Into<String>) -> Self {
        Self { number: number.into(), steps: vec![], expected: vec![], end: End::WeClose, quick: false }
    }

    pub(crate) fn send(mut self, bytes: Vec<u8>) -> Self {
        self.steps.push(Step::Write(bytes));
        self
    }

    pub(crate) fn chop(mut self, bytes: Vec<u8>, size: usize) -> Self {
        self.steps.push(Step::Chops(bytes, size));
        self
    }

    pub(crate) fn expect(mut self, event: Event) -> Self {
        self.expected.push(event);
        self
    }

    /// Expect this before the steps that follow.
    pub(crate) fn await_event(mut self, event: Event) -> Self {
        self.expected.push(event);
        self.steps.push(Step::Await);
        self
    }

    pub(crate) fn quiet(mut self) -> Self {
        self.steps.push(Step::Quiet);
        self
    }

    /// The server fails the connection.
    pub(crate) fn fails(mut self, codes: &[u16]) -> Self {
        self.end = End::Closed { codes: codes.to_vec(), clean: false };
        self
    }

    /// The server answers the close that was sent.
    fn answered(mut self, codes: &[u16]) -> Self {
        self.end = End::Closed { codes: codes.to_vec(), clean: true };
        self
    }

    pub(crate) fn quickly(mut self) -> Self {
        self.quick = true;
        self
    }
}

/// Every case there is here.
pub(crate) fn all(peer: Peer) -> Vec<Case> {
    [1, 2, 3, 4, 5, 6, 7, 9, 10].into_iter().flat_map(|number| section(peer, number)).collect()
}

/// The cases of one section, as this peer writes them.
pub(crate) fn section(peer: Peer, number: u32) -> Vec<Case> {
    match number {
        1 => framing(peer),
        2 => pings(peer),
        3 => reserved_bits(peer),
        4 => opcodes(peer),
        5 => fragmentation(peer),
        6 => utf8(peer),
        7 => closing(peer),
        9 => limits(peer),
        10 => auto_fragmentation(peer),
        other => panic!("section {other} is not run"),
    }
}

const HELLO: &[u8] = b"Hello, world!";
const NOT_TEXT: &[u8] = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff";

fn framing(peer: Peer) -> Vec<Case> {
    let lengths = [0, 125, 126, 127, 128, 65535, 65536, 65536];
    let mut cases = Vec::new();
    for (group, opcode, byte) in [(1, 1, b'*'), (2, 2, 0xFE)] {
        for (i, length) in lengths.into_iter().enumerate() {
            let payload = vec![byte; length];
            let bytes = peer.frame(opcode, &payload);
            let case = Case::new(format!("1.{group}.{}", i + 1));
            let case = if i == 7 { case.chop(bytes, 997) } else { case.send(bytes) };
            cases.push(case.expect(echo(opcode, payload)));
        }
    }
    cases
}

fn echo(opcode: u8, payload: Vec<u8>) -> Event {
    if opcode == 2 { Event::binary(payload) } else { Event::text(payload) }
}

fn pings(peer: Peer) -> Vec<Case> {
    let ping = |number: &str, payload: &[u8]| {
        Case::new(number).send(peer.frame(9, payload)).expect(Event::Pong(payload.to_vec()))
    };
    let ten = |number: &str, chop: bool| {
        (0..10).fold(Case::new(number), |case, i| {
            let payload = format!("payload-{i}").into_bytes();
            let bytes = peer.frame(9, &payload);
            let case = if chop { case.chop(bytes, 1) } else { case.send(bytes) };
            case.expect(Event::Pong(payload))
        })
    };
    let fe = [0xFE; 126];
    vec![
        ping("2.1", b""),
        ping("2.2", HELLO),
        ping("2.3", NOT_TEXT),
        ping("2.4", &fe[..125]),
        Case::new("2.5").send(peer.frame(9, &fe)).fails(&[1002]),
        Case::new("2.6").chop(peer.frame(9, &fe[..125]), 1).expect(Event::Pong(fe[..125].to_vec())),
        Case::new("2.7").send(peer.frame(10, b"")),
        Case::new("2.8").send(peer.frame(10, b"unsolicited pong payload")),
        Case::new("2.9")
            .send(peer.frame(10, b"unsolicited pong payload"))
            .send(peer.frame(9, b"ping payload"))
            .expect(Event::Pong(b"ping payload".to_vec())),
        ten("2.10", false),
        ten("2.11", true),
    ]
}

/// How the frames of a case are cut.
#[derive(Clone, Copy)]
enum Cut {
    /// All in one write.
    Together,
    /// One write a frame.
    Frames,
    /// One write an octet.
    Octets,
}

fn sent(case: Case, frames: &[Vec<u8>], cut: Cut) -> Case {
    match cut {
        Cut::Together => case.send(frames.concat()),
        Cut::Frames => frames.iter().fold(case, |case, frame| case.send(frame.clone())),
        Cut::Octets => case.chop(frames.concat(), 1),
    }
}

/// A text, something forbidden, a ping: the text is echoed, then the connection fails, and no pong comes.
fn text_then(peer: Peer, number: &str, forbidden: Vec<u8>, cut: Cut) -> Case {
    let frames = [peer.frame(1, HELLO), forbidden, peer.frame(9, b"")];
    sent(Case::new(number), &frames, cut).expect(Event::text(HELLO)).fails(&[1002])
}

fn reserved_bits(peer: Peer) -> Vec<Case> {
    let rsv = |bits: u8, opcode: u8, payload: &[u8]| peer.raw_frame(0x80 | bits << 4 | opcode, payload);
    vec![
        Case::new("3.1").send(rsv(1, 1, HELLO)).fails(&[1002]),
        text_then(peer, "3.2", rsv(2, 1, HELLO), Cut::Together),
        text_then(peer, "3.3", rsv(3, 1, HELLO), Cut::Frames),
        text_then(peer, "3.4", rsv(4, 1, HELLO), Cut::Octets),
        Case::new("3.5").send(rsv(5, 2, NOT_TEXT)).fails(&[1002]),
        // The suite's text says ping, its code sends binary.
        Case::new("3.6").send(rsv(6, 2, HELLO)).fails(&[1002]),
        Case::new("3.7").send(rsv(7, 8, b"")).fails(&[1002]),
    ]
}

fn opcodes(peer: Peer) -> Vec<Case> {
    let payload = b"reserved opcode payload";
    let mut cases = Vec::new();
    for (group, first) in [(1, 3), (2, 11)] {
        let number = |i: u8| format!("4.{group}.{i}");
        cases.extend([
            Case::new(number(1)).send(peer.frame(first, b"")).fails(&[1002]),
            Case::new(number(2)).send(peer.frame(first + 1, payload)).fails(&[1002]),
            text_then(peer, &number(3), peer.frame(first + 2, b""), Cut::Together),
            text_then(peer, &number(4), peer.frame(first + 3, HELLO), Cut::Together),
            text_then(peer, &number(5), peer.frame(first + 4, HELLO), Cut::Octets),
        ]);
    }
    cases
}

fn fragmentation(peer: Peer) -> Vec<Case> {
    let cuts = [Cut::Together, Cut::Frames, Cut::Octets];
    let number = |n: usize| Case::new(format!("5.{n}"));
    let (one, two) = (b"fragment1", b"fragment2");
    let mut cases = vec![
        sent(number(1), &[peer.fragment(9, one), peer.frame(0, two)], Cut::Together).fails(&[1002]),
        sent(number(2), &[peer.fragment(10, one), peer.frame(0, two)], Cut::Together).fails(&[1002]),
    ];
    let both = || Event::text("fragment1fragment2");
    let ping = || peer.frame(9, b"ping payload");
    for (i, cut) in cuts.into_iter().enumerate() {
        cases.push(sent(number(3 + i), &[peer.fragment(1, one), peer.frame(0, two)], cut).expect(both()));
    }
    for (i, cut) in cuts.into_iter().enumerate() {
        let case = sent(number(6 + i), &[peer.fragment(1, one), ping(), peer.frame(0, two)], cut);
        cases.push(case.expect(Event::Pong(b"ping payload".to_vec())).expect(both()));
    }
    let stray = b"non-continuation payload";
    for (i, cut) in cuts.into_iter().enumerate() {
        cases.push(sent(number(9 + i), &[peer.frame(0, stray), peer.frame(1, HELLO)], cut).fails(&[1002]));
    }
    for (i, cut) in cuts.into_iter().enumerate() {
        cases
            .push(sent(number(12 + i), &[peer.fragment(0, stray), peer.frame(1, HELLO)], cut).fails(&[1002]));
    }
    let frames = [
        peer.fragment(1, one),
        peer.frame(0, two),
        peer.fragment(0, b"fragment3"),
        peer.frame(1, b"fragment4"),
    ];
    cases.push(sent(number(15), &frames, Cut::Together).expect(both()).fails(&[1002]));
    for (n, stray) in [(16, peer.fragment(0, one)), (17, peer.frame(0, one))] {
        let once = [stray, peer.fragment(1, two), peer.frame(0, b"fragment3")].concat();
        cases.push(number(n).send(once.repeat(2)).fails(&[1002]));
    }
    cases.push(sent(number(18), &[peer.fragment(1, one), peer.frame(1, two)], Cut::Together).fails(&[1002]));
    for (n, cut) in [(19, Cut::Together), (20, Cut::Frames)] {
        let pong = |payload: &[u8]| Event::Pong(payload.to_vec());
        let first = [peer.fragment(1, one), peer.fragment(0, two), peer.frame(9, b"pongme 1!")];
        let rest = [
            peer.fragment(0, b"fragment3"),
            peer.fragment(0, b"fragment4"),
            peer.frame(9, b"pongme 2!"),
            peer.frame(0, b"fragment5"),
        ];
        // The first pong has to come before the rest is sent.
        let case = sent(number(n), &first, cut).await_event(pong(b"pongme 1!"));
        let whole = Event::text("fragment1fragment2fragment3fragment4fragment5");
        cases.push(sent(case, &rest, cut).expect(pong(b"pongme 2!")).expect(whole));
    }
    cases
}

/// The frames of a message in fragments of `size`. As in the suite, a message that is a multiple of the size
/// ends with an empty frame.
fn fragments(peer: Peer, opcode: u8, payload: &[u8], size: usize) -> Vec<u8> {
    if payload.len() <= size {
        return peer.frame(opcode, payload);
    }
    let mut out = Vec::new();
    let mut opcode = opcode;
    let mut chunks = payload.chunks_exact(size);
    for chunk in &mut chunks {
        out.extend(peer.fragment(opcode, chunk));
        opcode = 0;
    }
    out.extend(peer.frame(0, chunks.remainder()));
    out
}

fn closing(peer: Peer) -> Vec<Case> {
    let normal = || peer.close_frame(1000, b"");
    let hello = b"Hello World!";
    let long: Vec<u8> = b"BAsd7&jh23".iter().copied().cycle().take(256 << 10).collect();
    let mut cases = vec![
        Case::new("7.1.1").send(peer.frame(1, hello)).expect(Event::text(hello)),
        Case::new("7.1.2").send([normal(), peer.frame(8, b"")].concat()).answered(&[1000]),
        Case::new("7.1.3").send([normal(), peer.frame(9, b"")].concat()).answered(&[1000]),
        Case::new("7.1.4").send([normal(), peer.frame(1, hello)].concat()).answered(&[1000]),
        Case::new("7.1.5")
            .send([peer.fragment(1, b"fragment1"), normal(), peer.frame(0, b"fragment2")].concat())
            .answered(&[1000]),
        // Informational in the suite; ours is the strict outcome: both messages come back before the close.
        Case::new("7.1.6")
            .send([peer.frame(1, &long), peer.frame(1, hello), normal(), peer.frame(9, b"")].concat())
            .expect(Event::text(long.clone()))
            .expect(Event::text(hello))
            .answered(&[1000]),
        Case::new("7.3.1").send(peer.frame(8, b"")).answered(&[1000]),
        Case::new("7.3.2").send(peer.frame(8, b"a")).fails(&[1002]),
        Case::new("7.3.3").send(normal()).answered(&[1000]),
        Case::new("7.3.4").send(peer.close_frame(1000, hello)).answered(&[1000]),
        Case::new("7.3.5").send(peer.close_frame(1000, &[b'*'; 123])).answered(&[1000]),
        Case::new("7.3.6").send(peer.close_frame(1000, &[b'*'; 124])).fails(&[1002]),
        Case::new("7.5.1")
            .send(peer.close_frame(1000, &[KOSME, b"\xed\xa0\x80", b"edited"].concat()))
            .fails(&[1002, 1007]),
    ];
    let may = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    for (i, code) in may.into_iter().enumerate() {
        let case = Case::new(format!("7.7.{}", i + 1)).send(peer.close_frame(code, b""));
        cases.push(case.answered(&[1000, code]));
    }
    let may_not = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];
    for (i, code) in may_not.into_iter().enumerate() {
        cases.push(Case::new(format!("7.9.{}", i + 1)).send(peer.close_frame(code, b"")).fails(&[1002]));
    }
    // Informational in the suite; ours is a protocol error.
    for (i, code) in [5000, 65535].into_iter().enumerate() {
        cases.push(Case::new(format!("7.13.{}", i + 1)).send(peer.close_frame(code, b"")).fails(&[1002]));
    }
    cases
}

fn limits(peer: Peer) -> Vec<Case> {
    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;
    let payload = |opcode: u8, length: usize| -> Vec<u8> {
        let text: &[u8] = if opcode == 1 { b"BAsd7&jh23" } else { b"\x00\xfe\x23\xfa\xf0" };
        text.iter().copied().cycle().take(length).collect()
    };
    let mut cases = Vec::new();
    for opcode in [1, 2] {
        let sizes = [64 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB, 16 * MIB];
        for (i, size) in sizes.into_iter().enumerate() {
            let payload = payload(opcode, size);
            let case = Case::new(format!("9.{opcode}.{}", i + 1)).send(peer.frame(opcode, &payload));
            cases.push(case.expect(echo(opcode, payload)));
        }
    }
    for (group, opcode) in [(3, 1), (4, 2)] {
        let sizes = [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB];
        for (i, size) in sizes.into_iter().enumerate() {
            // 9.4.1 alone sends 0xFE in the suite; the others of 9.4 send stars as binary.
            let byte = if opcode == 2 && i == 0 { 0xFE } else { b'*' };
            let payload = vec![byte; 4 * MIB];
            let case =
                Case::new(format!("9.{group}.{}", i + 1)).send(fragments(peer, opcode, &payload, size));
            cases.push(case.expect(echo(opcode, payload)));
        }
    }
    for (group, opcode) in [(5, 1), (6, 2)] {
        for (i, chop) in [64, 128, 256, 512, 1024, 2048].into_iter().enumerate() {
            let payload = payload(opcode, MIB);
            let case = Case::new(format!("9.{group}.{}", i + 1)).chop(peer.frame(opcode, &payload), chop);
            cases.push(case.expect(echo(opcode, payload)));
        }
    }
    for (group, opcode, byte) in [(7, 1, b'*'), (8, 2, 0xFE)] {
        for (i, length) in [0, 16, 64, 256, 1024, 4096].into_iter().enumerate() {
            let payload = vec![byte; length];
            // One message at a time, a thousand times.
            let case = (0..1000).fold(Case::new(format!("9.{group}.{}", i + 1)), |case, _| {
                case.send(peer.frame(opcode, &payload)).await_event(echo(opcode, payload.clone()))
            });
            cases.push(case);
        }
    }
    cases
}

fn auto_fragmentation(peer: Peer) -> Vec<Case> {
    let payload = vec![b'*'; 65536];
    let bytes = fragments(peer, 1, &payload, 1300);
    // 50 fragments of 1,300 bytes and one of 536, each with four bytes of header and perhaps a mask.
    let header = match peer {
        Peer::Client => 8,
        Peer::Server => 4,
    };
    assert_eq!(bytes.len(), payload.len() + 51 * header);
    vec![Case::new("10.1.1").send(bytes).expect(Event::text(payload))]
}
