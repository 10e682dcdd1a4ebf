//! A reference model: what protocol.md says of tokens, duplicate logins, acks and calls, in its plainest form, beside
//! the engine. Any list of operations must be seen alike by both.

use std::collections::BTreeMap;

use proptest::prelude::*;
use trunkline_proto::wire::{ClientAck, Verdict};
use trunkline_proto::{DownBody, ErrorCode};
use trunkline_session::ClientSeq;
use trunkline_session::engine::{CallOutcome, Input, Output, StartFacts, TokenFact};

use crate::rig::{Rig, at, numbers, position, reply, verdict};

const WINDOW: u64 = 64;

#[derive(Debug, Clone)]
enum Op {
    Start {
        token: Token,
        instance: u64,
        late: bool,
        stale_fence: bool,
    },
    Cut,
    Prove,
    Deliver(u64),
    /// So far from what was sent.
    Ack(i64),
    Call {
        number: Number,
        other_content: bool,
        quiet: bool,
    },
    End {
        nth: usize,
        how: How,
    },
    Replied {
        back: u64,
    },
}

#[derive(Debug, Clone, Copy)]
enum Token {
    None,
    /// The one issued last, the one before, …
    Issued(u64),
}

#[derive(Debug, Clone, Copy)]
enum Number {
    Next,
    Jump,
    Back(u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Reply,
    Fails,
    Refused,
}

/// What is seen from outside.
#[derive(Debug, PartialEq)]
enum Seen {
    StartRefused(u32),
    Started { verdict: Verdict, generation: u64, from: Option<u64>, last_client_seq: u64 },
    Runs(u64),
    Reply { msg_id: u32, content: String },
    Error { msg_id: u32, code: i32 },
    Acked(u64),
}

#[derive(Debug, Default)]
struct Model {
    started: bool,
    connection: Option<u64>,
    connections: u64,
    instance: u64,
    attempt: u64,
    proven: u64,
    proven_here: bool,
    sent: u64,
    acked: Option<u64>,
    calls: BTreeMap<u64, Call>,
    highest: Option<u64>,
    waiting: Vec<u64>,
    running: Vec<u64>,
}

#[derive(Debug, Clone)]
struct Call {
    content: String,
    state: State,
    asked_on: Option<u64>,
    msg_id: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Open,
    Ended(How),
    /// Ended well, and nobody wanted the reply.
    Quiet,
    Forgotten,
}

impl Model {
    fn start(&mut self, token: Option<u64>, instance: u64, attempt: u64, stale_fence: bool) -> Seen {
        let same = self.started && instance == self.instance;
        if self.started && (stale_fence || (same && attempt < self.attempt)) {
            return Seen::StartRefused(4301);
        }
        let from_begin = match token {
            Some(given)
                if self.started && (given == self.proven || given == self.proven + 1) && given > 0 =>
            {
                self.proven = given;
                false
            }
            None if !self.started => false,
            None if same && self.proven == 0 => true,
            _ => return Seen::StartRefused(4101),
        };
        let known = std::mem::replace(&mut self.started, true);
        (self.instance, self.attempt, self.proven_here) = (instance, attempt, false);
        self.connections += 1;
        self.connection = Some(self.connections);
        let from = known.then(|| if from_begin { 0 } else { self.acked.unwrap_or(0) });
        self.sent = from.unwrap_or(0);
        Seen::Started {
            verdict: if known && !from_begin { Verdict::Resumed } else { Verdict::Fresh },
            generation: self.proven + 1,
            from,
            last_client_seq: self.highest.unwrap_or(0),
        }
    }

    fn ack(&mut self, offset: u64) -> Vec<Seen> {
        if offset > self.sent {
            return vec![Seen::Error { msg_id: 0, code: 400 }];
        }
        if self.acked.is_some_and(|acked| offset <= acked) {
            return Vec::new();
        }
        self.acked = Some(offset);
        vec![Seen::Acked(offset)]
    }

    fn call(&mut self, number: u64, content: &str, msg_id: u32) -> Vec<Seen> {
        let error = |code| vec![Seen::Error { msg_id, code }];
        let connection = self.connection;
        let Some(call) = self.calls.get_mut(&number) else {
            match self.highest {
                Some(highest) if number > highest + 1 => return error(400),
                Some(highest) if number <= highest => return error(520),
                _ => self.highest = Some(number),
            }
            let seen = self.admit(number, content, msg_id);
            self.forget_old();
            return seen;
        };
        if call.content != content {
            return error(409);
        }
        match call.state {
            State::Ended(How::Refused) => return self.admit(number, content, msg_id),
            State::Quiet if msg_id == 0 => return Vec::new(),
            State::Quiet | State::Forgotten => return error(520),
            State::Open | State::Ended(_) => {}
        }
        (call.asked_on, call.msg_id) = (connection, msg_id);
        match call.state {
            State::Ended(How::Reply) if msg_id == 0 => Vec::new(),
            State::Ended(How::Reply) => vec![Seen::Reply { msg_id, content: content.to_owned() }],
            State::Ended(_) => error(502),
            _ => Vec::new(),
        }
    }

    fn admit(&mut self, number: u64, content: &str, msg_id: u32) -> Vec<Seen> {
        let full = self.running.len() + self.waiting.len() == 64;
        let state = if full { State::Ended(How::Refused) } else { State::Open };
        let call = Call { content: content.to_owned(), state, asked_on: self.connection, msg_id };
        self.calls.insert(number, call);
        if full {
            return vec![Seen::Error { msg_id, code: 503 }];
        }
        self.waiting.push(number);
        self.run()
    }

    fn run(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        while self.running.len() < 8 && !self.waiting.is_empty() {
            let number = self.waiting.remove(0);
            self.running.push(number);
            seen.push(Seen::Runs(number));
        }
        seen
    }

    fn end(&mut self, nth: usize, how: How) -> Option<(u64, Vec<Seen>)> {
        if self.running.is_empty() {
            return None;
        }
        let number = self.running.remove(nth % self.running.len());
        let call = self.calls.get_mut(&number).unwrap();
        let (msg_id, content) = (call.msg_id, call.content.clone());
        call.state = if how == How::Reply && msg_id == 0 { State::Quiet } else { State::Ended(how) };
        let heard = self.connection.is_some() && call.asked_on == self.connection;
        let mut seen = match how {
            How::Reply if msg_id == 0 => Vec::new(),
            How::Reply => vec![Seen::Reply { msg_id, content }],
            How::Fails => vec![Seen::Error { msg_id, code: 502 }],
            How::Refused => vec![Seen::Error { msg_id, code: 503 }],
        };
        if !heard {
            seen.clear();
        }
        self.forget_old();
        seen.extend(self.run());
        Some((number, seen))
    }

    fn replied(&mut self, up_to: u64) -> Vec<Seen> {
        if up_to > self.highest.unwrap_or(0) {
            return vec![Seen::Error { msg_id: 0, code: 400 }];
        }
        // 0 tells of none.
        for (_, call) in self.calls.range_mut(..=up_to).filter(|_| up_to > 0) {
            if matches!(call.state, State::Ended(How::Reply | How::Fails)) {
                call.state = State::Forgotten;
            }
        }
        Vec::new()
    }

    /// Only the last 64 numbers are remembered, and what is open.
    fn forget_old(&mut self) {
        let highest = self.highest.unwrap_or(0);
        self.calls.retain(|number, call| call.state == State::Open || highest - number < WINDOW);
    }
}

/// The engine, driven by the same operations.
struct Both {
    rig: Rig,
    model: Model,
    tokens: Vec<String>,
    msg_id: u32,
}

impl Both {
    fn step(&mut self, op: &Op) {
        match *op {
            Op::Start { token, instance, late, stale_fence } => {
                self.start(token, instance, late, stale_fence)
            }
            Op::Cut => {
                self.rig.cut();
                self.model.connection = None;
            }
            Op::Prove if self.model.connection.is_some() => {
                self.rig.prove();
                if !std::mem::replace(&mut self.model.proven_here, true) {
                    self.model.proven += 1;
                }
            }
            Op::Deliver(n) if self.model.connection.is_some() => {
                self.model.sent += n;
                self.rig.sent.positions.insert("all".into(), at(1, self.model.sent));
            }
            Op::Ack(delta) if self.model.connection.is_some() => {
                let offset = self.model.sent.saturating_add_signed(delta);
                let ack = ClientAck { positions: vec![position("all", 1, offset)], ..ClientAck::default() };
                let seen = seen(&self.rig.ack(ack));
                assert_eq!(seen, self.model.ack(offset));
            }
            Op::Call { number, other_content, quiet } if self.model.connection.is_some() => {
                self.call(number, other_content, quiet);
            }
            Op::End { nth, how } => {
                let Some((number, expected)) = self.model.end(nth, how) else { return };
                let outcome = match how {
                    How::Reply => reply(
                        &self
                            .model
                            .calls
                            .get(&number)
                            .map_or_else(content_of(number), |call| call.content.clone()),
                    ),
                    How::Fails => CallOutcome::Error(ErrorCode::UpstreamFailed.message("")),
                    How::Refused => CallOutcome::Error(ErrorCode::Overloaded.message("")),
                };
                assert_eq!(seen(&self.rig.end(number, outcome)), expected);
            }
            Op::Replied { back } if self.model.connection.is_some() => {
                let replied_client_seq = (self.model.highest.unwrap_or(0) + 2).saturating_sub(back);
                let ack = ClientAck { replied_client_seq, ..ClientAck::default() };
                assert_eq!(seen(&self.rig.ack(ack)), self.model.replied(replied_client_seq));
            }
            // Needs a connection.
            _ => {}
        }
    }

    fn start(&mut self, token: Token, instance: u64, late: bool, stale_fence: bool) {
        let mut facts = self.rig.facts();
        let index = match token {
            Token::None => None,
            Token::Issued(back) => (self.tokens.len() as u64).checked_sub(back + 1),
        };
        facts.token = index.map_or(TokenFact::None, |index| {
            self.rig.resume(&self.tokens[usize::try_from(index).unwrap()]).token
        });
        let given = match facts.token {
            TokenFact::None => None,
            TokenFact::Generation(generation) => Some(generation),
        };
        facts.attempt = if late { self.model.attempt.saturating_sub(1) } else { self.model.attempt + 1 };
        facts.instance = instance;
        if stale_fence && self.model.started {
            facts.fence = self.rig.fence;
        }
        let expected = self.model.start(given, instance, facts.attempt, stale_fence);
        assert_eq!(self.start_engine(facts), expected);
    }

    fn start_engine(&mut self, facts: StartFacts) -> Seen {
        let outputs = self.rig.give(Input::Start(Box::new(facts)));
        match &outputs[..] {
            [Output::StartRefused { close, .. }] => Seen::StartRefused(close.code),
            [Output::StartAccepted(accepted)] => {
                let from = accepted.attach.iter().find(|request| &*request.channel == "all").unwrap().from;
                let (fence, attach) = (accepted.fence, accepted.attach.clone());
                let response = self.rig.attach(fence, attach);
                if self.tokens.last() != Some(&response.resume_token) {
                    self.tokens.push(response.resume_token.clone());
                }
                let token = trunkline_session::ResumeToken::verify(
                    &response.resume_token,
                    &self.rig.config.token_key,
                );
                Seen::Started {
                    verdict: verdict(&response),
                    generation: token.unwrap().generation,
                    from: from.map(|from| from.offset),
                    last_client_seq: response.last_client_seq,
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn call(&mut self, number: Number, other_content: bool, quiet: bool) {
        let next = self.model.highest.map_or(70, |highest| highest + 1);
        let number = match number {
            Number::Next => next,
            Number::Jump => next + 1,
            Number::Back(back) => next.saturating_sub(back),
        };
        // Without a number seen any is the first.
        let content = if other_content { format!("other-{number}") } else { content_of(number)() };
        self.msg_id += 1;
        let mut frame = self.rig.call_frame(number, &content);
        frame.msg_id = if quiet { 0 } else { self.msg_id };
        let msg_id = frame.msg_id;
        let outputs = self.rig.frame(frame);
        assert_eq!(seen(&outputs), self.model.call(number, &content, msg_id));
        for seq in numbers(&outputs) {
            assert!(self.rig.engine.runs(ClientSeq(seq)));
        }
    }
}

fn content_of(number: u64) -> impl Fn() -> String {
    move || format!("content-{number}")
}

fn seen(outputs: &[Output]) -> Vec<Seen> {
    let one = |output: &Output| match output {
        Output::Call(call) => Seen::Runs(call.seq.0),
        Output::Acked(positions) => Seen::Acked(positions[0].offset),
        Output::Send(frame) => match &frame.body {
            DownBody::Error(error) => Seen::Error { msg_id: frame.msg_id, code: error.error_code },
            DownBody::BusinessData(reply) => {
                Seen::Reply { msg_id: frame.msg_id, content: reply.message.clone() }
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    outputs.iter().map(one).collect()
}

fn ops() -> impl Strategy<Value = Op> {
    let token = prop_oneof![1 => Just(Token::None), 6 => (0..4_u64).prop_map(Token::Issued)];
    let start = (token, 8..10_u64, prop::bool::weighted(0.1), prop::bool::weighted(0.1))
        .prop_map(|(token, instance, late, stale_fence)| Op::Start { token, instance, late, stale_fence });
    let number = prop_oneof![
        12 => Just(Number::Next),
        1 => Just(Number::Jump),
        4 => (1..12_u64).prop_map(Number::Back),
        2 => (55..75_u64).prop_map(Number::Back),
    ];
    let call = (number, prop::bool::weighted(0.05), prop::bool::weighted(0.1))
        .prop_map(|(number, other_content, quiet)| Op::Call { number, other_content, quiet });
    let how = prop_oneof![6 => Just(How::Reply), 1 => Just(How::Fails), 1 => Just(How::Refused)];
    let end = (0..8_usize, how).prop_map(|(nth, how)| Op::End { nth, how });
    prop_oneof![
        4 => start,
        2 => Just(Op::Cut),
        2 => Just(Op::Prove),
        3 => (1..5_u64).prop_map(Op::Deliver),
        3 => (-4..2_i64).prop_map(Op::Ack),
        40 => call,
        20 => end,
        2 => (0..70_u64).prop_map(|back| Op::Replied { back }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn engine_and_model_see_the_same(ops in prop::collection::vec(ops(), 1..400)) {
        let mut both = Both { rig: Rig::new(), model: Model::default(), tokens: Vec::new(), msg_id: 0 };
        for op in &ops {
            both.step(op);
        }
    }
}
