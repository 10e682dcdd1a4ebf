//! Casts: calls with `msg_id` 0, which nobody answers, to a service in the node's process, as many as it takes.
//!
//! Every 28th number of a session is a call that is answered: it tells that those before it were taken, so that no
//! session has more outstanding than it may. Refused ones are counted apart.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use trunkline_proto::wire::{BusinessRequest, ClientAck};
use trunkline_proto::{Dialect, DownBody, UpBody, UpFrame};

use super::Rig;
use super::callers::{CALL_TIMEOUT, numbered};
use super::clock::Moment;
use super::figures::{Figures, counts};
use super::generators::{self, Load, Role, Stand};
use super::latency::Latencies;
use super::link::{Link, LinkReader, LinkWriter};
use super::raw::RawSession;
use super::report::Report;
use super::usage::Used;

const ACTION: &str = "trunkline.echo";

/// Numbers of one burst; the last is a call. Two bursts, and the seven calls that may still run when the answer to a
/// later one comes, are below the 64 that a session may have outstanding.
const BURST: u64 = 28;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cast {
    pub(crate) sessions: usize,
    pub(crate) lasting: Duration,
    /// Bytes of each cast's data.
    pub(crate) size: usize,
}

struct Shared {
    end: Moment,
    /// Bursts whose call was answered.
    bursts: Cell<u64>,
    refused: Cell<u64>,
    errors: RefCell<BTreeMap<String, u64>>,
    latencies: Latencies,
    /// Type and payload of a cast.
    call: Vec<u8>,
}

/// The bursts of one session under way.
#[derive(Default)]
struct Line {
    /// When each was sent, the oldest first.
    sent: RefCell<std::collections::VecDeque<Moment>>,
    is_gone: Cell<bool>,
    came: Notify,
}

impl Cast {
    /// Needs a `LocalSet` on one thread.
    pub(crate) async fn run(self, rig: &Rig, role: Role) -> anyhow::Result<Option<Report>> {
        generators::run(&self, rig, role).await
    }
}

impl Load for Cast {
    fn connections(&self) -> usize {
        self.sessions
    }

    fn lasting(&self) -> Duration {
        self.lasting
    }

    async fn generate(&self, rig: &Rig, stand: &mut Stand<'_>) -> anyhow::Result<Figures> {
        let sessions = rig.sessions(self.sessions).await?;
        let request = BusinessRequest {
            action: ACTION.to_owned(),
            data: vec![b'x'; self.size].into(),
            ..BusinessRequest::default()
        };
        let call = Dialect::Protobuf.encode_up(&UpFrame::new(0, 0, UpBody::Business(request)));
        let latencies = Latencies::new()?;
        let start = stand.begin().await?;
        let shared = Rc::new(Shared {
            end: start.after(self.lasting),
            bursts: Cell::new(0),
            refused: Cell::new(0),
            errors: RefCell::default(),
            latencies,
            call,
        });
        let mut tasks = JoinSet::new();
        for (at, session) in sessions.into_iter().enumerate() {
            tasks.spawn_local(Rc::clone(&shared).session(at, session));
        }
        rig.shown(self.lasting, async { while tasks.join_next().await.is_some() {} }).await;
        let seconds = Moment::now().since(start).as_secs_f64();
        stand.end().await?;
        let refused = shared.refused.get();
        let taken = (shared.bursts.get() * (BURST - 1)).saturating_sub(refused);
        Ok(Figures {
            counts: counts([("taken", taken), ("refused", refused), ("calls", shared.bursts.get())]),
            errors: shared.errors.take(),
            latency: shared.latencies.recorded(),
            seconds,
            ..Figures::default()
        })
    }

    fn report(&self, rig: &Rig, figures: Figures, used: Used) -> anyhow::Result<Report> {
        let mut report = Report::new("cast", rig.way(), used);
        report.own_node = rig.own.is_some();
        for (name, value) in [
            ("sessions", json!(self.sessions)),
            ("seconds", json!(self.lasting.as_secs_f64())),
            ("size", json!(self.size)),
        ] {
            report.asked.insert(name.to_owned(), value);
        }
        report.per_second = Some(figures.a_second(figures.count("taken")));
        report.note = Some("latency: from a burst of 27 casts until the call behind it was answered");
        figures.tell(&mut report)?;
        report.failure = (!report.errors.is_empty()).then(|| "not every session stayed well".to_owned());
        Ok(report)
    }
}

impl Shared {
    async fn session(self: Rc<Self>, at: usize, session: RawSession) {
        let Link { reader, mut writer } = session.link;
        let line = Rc::new(Line::default());
        let mut reading = JoinSet::new();
        reading.spawn_local(Rc::clone(&line).read(at, reader, Rc::clone(&self)));
        if let Err(error) = self.bursts(&mut writer, &line).await {
            self.fail(format!("{error:#}"));
        }
    }

    async fn bursts(&self, writer: &mut LinkWriter, line: &Line) -> anyhow::Result<()> {
        let (mut number, mut bytes, mut payload) = (0_u64, Vec::new(), Vec::new());
        while Moment::now() < self.end && !line.is_gone.get() {
            if line.sent.borrow().len() >= 2 {
                timeout(CALL_TIMEOUT, line.came.notified()).await.context("a burst is not answered")?;
                continue;
            }
            bytes.clear();
            if number >= BURST * 2 {
                // The replies of those two bursts ago have come: the node need not keep them.
                let ack = ClientAck { replied_client_seq: number - BURST * 2, ..ClientAck::default() };
                writer.frame(&Dialect::Protobuf.encode_up(&UpFrame::new(0, 0, UpBody::Ack(ack))), &mut bytes);
            }
            for at in 1..=BURST {
                number += 1;
                payload.clear();
                numbered(u32::from(at == BURST), number, &self.call, &mut payload);
                writer.frame(&payload, &mut bytes);
            }
            line.sent.borrow_mut().push_back(Moment::now());
            writer.write(&bytes).await?;
        }
        while !line.sent.borrow().is_empty() && !line.is_gone.get() {
            timeout(CALL_TIMEOUT, line.came.notified()).await.context("a burst is not answered")?;
        }
        Ok(())
    }

    fn fail(&self, why: String) {
        *self.errors.borrow_mut().entry(why).or_default() += 1;
    }
}

impl Line {
    async fn read(self: Rc<Self>, at: usize, mut reader: LinkReader, shared: Rc<Shared>) {
        loop {
            let came = reader.some(&mut |frame| self.take(at, frame, &shared)).await;
            if let Err(error) = came {
                shared.fail(format!("a session ended: {error}"));
                self.is_gone.set(true);
            }
            self.came.notify_one();
            if self.is_gone.get() {
                return;
            }
        }
    }

    fn take(&self, at: usize, frame: &[u8], shared: &Shared) {
        match Dialect::Protobuf.decode_down(&Bytes::copy_from_slice(frame)) {
            Ok(frame) if frame.msg_id == 1 => {
                if let Some(sent) = self.sent.borrow_mut().pop_front() {
                    shared.latencies.record(at, Moment::now().since(sent));
                }
                match frame.body {
                    DownBody::BusinessData(_) => shared.bursts.set(shared.bursts.get() + 1),
                    // Whether its casts were taken nobody knows: they do not count.
                    DownBody::Error(_) => {}
                    other => shared.fail(format!("a call was answered with {other:?}")),
                }
            }
            Ok(frame) => match frame.body {
                DownBody::Error(error) if matches!(error.error_code, 429 | 503) => {
                    shared.refused.set(shared.refused.get() + 1);
                }
                DownBody::Error(error) => shared.fail(error.name),
                _ => {}
            },
            Err(error) => shared.fail(error.to_string()),
        }
    }
}
