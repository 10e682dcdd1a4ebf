//! One engine by itself: a START in one line, frames in, outputs out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use trunkline_proto::wire::{
    BusinessRequest, BusinessResponse, ChannelPosition, ChannelRefusal, ClientAck, ErrorMessage,
    StartResponse, Verdict,
};
use trunkline_proto::{Dialect, DownBody, DownFrame, UpBody, UpFrame};
use trunkline_session::engine::{
    AttachRequest, BindAnswer, BindHint, BindTarget, BoundPush, CallOutcome, CallReply, CallRequest,
    ChannelStart, Event, Input, Output, SentPositions, StartFacts, TokenFact,
};
use trunkline_session::token::ResumeToken;
use trunkline_session::{
    CallGate, Channel, ClientSeq, ConnectionId, Engine, Fence, Now, OpenGate, Position, Protocol,
    ReplyBudget, Seq, SessionConfig, SessionId,
};

pub(crate) const SESSION: SessionId = SessionId(77);

pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) config: Arc<SessionConfig>,
    pub(crate) now: Now,
    pub(crate) sent: Sent,
    pub(crate) gate: Box<dyn CallGate>,
    next_fence: u64,
    next_msg_id: u32,
    pub(crate) fence: Fence,
}

#[derive(Default)]
pub(crate) struct Sent {
    pub(crate) positions: BTreeMap<String, Position>,
    pub(crate) seq: u64,
}

impl SentPositions for Sent {
    fn sent(&self, channel: &str) -> Option<Position> {
        self.positions.get(channel).copied()
    }

    fn highest_seq(&self) -> Seq {
        Seq(self.seq)
    }
}

pub(crate) fn at(epoch: u64, offset: u64) -> Position {
    Position { epoch, offset }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Rig::with(SessionConfig::default(), ReplyBudget::default())
    }

    pub(crate) fn with(config: SessionConfig, budget: ReplyBudget) -> Self {
        let config = Arc::new(config);
        Rig {
            engine: Engine::new(SESSION, 5, config.clone(), budget),
            config,
            now: Now { at: Duration::from_secs(500), unix_ms: 1_795_161_600_000 },
            sent: Sent::default(),
            gate: Box::new(OpenGate),
            next_fence: 0,
            next_msg_id: 100,
            fence: Fence::new(0, 0).unwrap(),
        }
    }

    /// A session that has started, with its output taken.
    pub(crate) fn started() -> Self {
        let mut rig = Rig::new();
        rig.begin();
        rig
    }

    pub(crate) fn begin(&mut self) -> StartResponse {
        let facts = self.facts();
        self.start(facts)
    }

    /// A START of protocol 1, of instance 9, without token; change what the test is about.
    pub(crate) fn facts(&mut self) -> StartFacts {
        self.next_fence += 1;
        StartFacts {
            connection: ConnectionId(self.next_fence),
            fence: Fence::new(self.next_fence, 1).unwrap(),
            protocol: Protocol::Trunkline,
            dialect: Dialect::Protobuf,
            msg_id: 1,
            instance: 9,
            attempt: self.next_fence,
            token: TokenFact::None,
            former: None,
            last_acked_seq: Seq(0),
            last_sent_client_seq: ClientSeq(0),
            implicit: vec![Channel::from("user:a"), Channel::from("all")],
            positions: Vec::new(),
            expires_at: None,
        }
    }

    /// A START with the token that START_RESP gave.
    pub(crate) fn resume(&mut self, token: &str) -> StartFacts {
        let token = ResumeToken::verify(token, &self.config.token_key).unwrap();
        assert_eq!((token.session, token.device), (SESSION, 5));
        StartFacts { token: TokenFact::Generation(token.generation), ..self.facts() }
    }

    /// Gives a START that is accepted and attaches all it wants: new channels at (1, 0), others where they go on.
    pub(crate) fn start(&mut self, facts: StartFacts) -> StartResponse {
        let (fence, attach) = self.accepted(facts);
        self.attach(fence, attach)
    }

    pub(crate) fn accepted(&mut self, facts: StartFacts) -> (Fence, Vec<AttachRequest>) {
        let outputs = self.give(Input::Start(Box::new(facts)));
        let [Output::StartAccepted(accepted)] = &outputs[..] else { panic!("{outputs:?}") };
        (accepted.fence, accepted.attach.clone())
    }

    pub(crate) fn attach(&mut self, fence: Fence, attach: Vec<AttachRequest>) -> StartResponse {
        let outputs = self.attach_raw(fence, attach);
        let Some(Output::Send(frame)) = outputs.first() else { panic!("nothing was sent: {outputs:?}") };
        let DownBody::StartResp(response) = &frame.body else {
            panic!("START_RESP is the first frame down: {outputs:?}");
        };
        assert!(response.success, "{response:?}");
        StartResponse::clone(response)
    }

    pub(crate) fn attach_raw(&mut self, fence: Fence, attach: Vec<AttachRequest>) -> Vec<Output> {
        self.attach_refusing(fence, attach, Vec::new())
    }

    pub(crate) fn attach_refusing(
        &mut self,
        fence: Fence,
        attach: Vec<AttachRequest>,
        refused: Vec<ChannelRefusal>,
    ) -> Vec<Output> {
        self.sent.positions.clear();
        let mut channels = Vec::new();
        for AttachRequest { channel, from, kind } in attach {
            let position = from.unwrap_or(at(1, 0));
            self.sent.positions.insert(channel.to_string(), position);
            channels.push(ChannelStart { channel, kind, position, gap: None });
        }
        self.fence = fence;
        self.give(Input::Attached { fence, channels, refused })
    }

    pub(crate) fn give(&mut self, input: Input<'_>) -> Vec<Output> {
        self.engine.handle_input(self.now, input);
        self.outputs()
    }

    pub(crate) fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.engine.poll_output()).collect()
    }

    pub(crate) fn frame(&mut self, frame: UpFrame) -> Vec<Output> {
        let (fence, now) = (self.fence, self.now);
        let input = Input::Frame { fence, frame, sent: &self.sent, gate: &*self.gate };
        self.engine.handle_input(now, input);
        self.outputs()
    }

    pub(crate) fn ack(&mut self, ack: ClientAck) -> Vec<Output> {
        self.frame(UpFrame::new(0, 0, UpBody::Ack(ack)))
    }

    pub(crate) fn prove(&mut self) {
        let start_fence = self.fence.number();
        assert_eq!(self.ack(ClientAck { start_fence, ..ClientAck::default() }), []);
    }

    pub(crate) fn call_frame(&mut self, seq: u64, action: &str) -> UpFrame {
        self.next_msg_id += 1;
        let request = BusinessRequest { action: action.into(), ..BusinessRequest::default() };
        UpFrame::new(self.next_msg_id, seq, UpBody::Business(request))
    }

    /// Calls number `seq`, whose content is made of the number.
    pub(crate) fn call(&mut self, seq: u64) -> Vec<Output> {
        let frame = self.call_frame(seq, &format!("a{seq}"));
        self.frame(frame)
    }

    pub(crate) fn reply(&mut self, seq: u64, message: &str) -> Vec<Output> {
        self.end(seq, reply(message))
    }

    pub(crate) fn end(&mut self, seq: u64, outcome: CallOutcome) -> Vec<Output> {
        self.give(Input::CallEnded { seq: ClientSeq(seq), outcome })
    }

    pub(crate) fn bind(&mut self, seq: u64, hint: BindHint, message: &str) -> BindAnswer {
        self.engine.bind(ClientSeq(seq), bound(hint, message))
    }

    pub(crate) fn cut(&mut self) -> Vec<Output> {
        let fence = self.fence;
        self.give(Input::Disconnected { fence })
    }

    pub(crate) fn pass(&mut self, time: Duration) -> Vec<Output> {
        let until = self.now.at + time;
        let mut outputs = Vec::new();
        while let Some(next) = self.engine.next_timeout().filter(|next| *next <= until) {
            self.now.unix_ms += u64::try_from((next - self.now.at).as_millis()).unwrap();
            self.now.at = next;
            outputs.extend(self.give(Input::Timeout));
        }
        self.now.unix_ms += u64::try_from((until - self.now.at).as_millis()).unwrap();
        self.now.at = until;
        outputs
    }
}

pub(crate) fn reply(message: &str) -> CallOutcome {
    let response = BusinessResponse { code: 200, message: message.into(), ..BusinessResponse::default() };
    CallOutcome::Reply(Box::new(CallReply { response, ..CallReply::default() }))
}

pub(crate) fn bound(hint: BindHint, message: &str) -> BoundPush {
    let push = BusinessResponse { code: 200, message: message.into(), ..BusinessResponse::default() };
    BoundPush { hint, target: BindTarget::Session, push }
}

pub(crate) fn position(channel: &str, epoch: u64, offset: u64) -> ChannelPosition {
    ChannelPosition { channel: channel.into(), epoch, offset }
}

/// The one frame among the outputs.
pub(crate) fn sent(outputs: &[Output]) -> &DownFrame {
    let frames: Vec<_> = frames(outputs).collect();
    let [frame] = frames[..] else { panic!("one frame was expected: {outputs:?}") };
    frame
}

pub(crate) fn frames(outputs: &[Output]) -> impl Iterator<Item = &DownFrame> {
    outputs.iter().filter_map(|output| match output {
        Output::Send(frame) => Some(&**frame),
        _ => None,
    })
}

pub(crate) fn error(outputs: &[Output]) -> &ErrorMessage {
    let frame = sent(outputs);
    let DownBody::Error(error) = &frame.body else { panic!("an error was expected: {frame:?}") };
    error
}

/// The message of the one reply among the outputs.
pub(crate) fn replied(outputs: &[Output]) -> &str {
    let frame = sent(outputs);
    let DownBody::BusinessData(response) = &frame.body else { panic!("a reply was expected: {frame:?}") };
    &response.message
}

/// The messages of a group, in order; errors as their code.
pub(crate) fn group(frame: &DownFrame) -> Vec<String> {
    let DownBody::Group(frames) = &frame.body else { panic!("a group was expected: {frame:?}") };
    frames
        .iter()
        .map(|frame| match &frame.body {
            DownBody::BusinessData(response) => response.message.clone(),
            DownBody::Error(error) => error.error_code.to_string(),
            other => panic!("{other:?}"),
        })
        .collect()
}

pub(crate) fn started_calls(outputs: &[Output]) -> Vec<&CallRequest> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Call(call) => Some(&**call),
            _ => None,
        })
        .collect()
}

pub(crate) fn numbers(outputs: &[Output]) -> Vec<u64> {
    started_calls(outputs).iter().map(|call| call.seq.0).collect()
}

pub(crate) fn closed_with(outputs: &[Output]) -> Option<u32> {
    outputs.iter().find_map(|output| match output {
        Output::Close { notice, .. } | Output::StartRefused { close: notice, .. } => Some(notice.code),
        _ => None,
    })
}

pub(crate) fn events(outputs: &[Output]) -> Vec<Event> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Event(event) => Some(*event),
            _ => None,
        })
        .collect()
}

pub(crate) fn verdict(response: &StartResponse) -> Verdict {
    Verdict::try_from(response.verdict).unwrap()
}
