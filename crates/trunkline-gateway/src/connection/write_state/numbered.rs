//! Protocol 0's way through the write state: a frame is numbered when it is begun, and kept by the ledger until it is
//! acked, so nothing that was numbered is ever given back. Seed clients pay for their numbers with a copy.

use bytes::{Bytes, BytesMut};
use trunkline_broker::ReadOutcome;
use trunkline_session::protocol0::LedgerError;
use trunkline_session::{Ledger, Seq};

use super::{Counting, Numbering, Pending, Tracer, Unparks, WriteState, Written, gap_frame};
use crate::encode::WireForm;
use crate::session::to_session;

/// So much is numbered at once: enough for one write, little to hold for a reader that has stopped.
const BATCH_BYTES: usize = 16 * 1024;

/// A number that could not be given.
impl From<LedgerError> for Pending {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::NotReserved => Pending::NotReserved,
            LedgerError::Full | LedgerError::Overrun | LedgerError::Future(_) => Pending::Unacked,
        }
    }
}

impl WriteState {
    /// Numbers what comes next, as far as one batch and the ledger allow, and puts it behind what is begun. Answers
    /// why it stopped.
    pub(super) fn number_frames(
        &mut self,
        counted: &mut Written,
        unparks: Unparks<'_>,
        tracer: Tracer<'_>,
    ) -> Pending {
        let begun = self.work.as_ref().map_or_else(Bytes::new, |work| work.begun.clone());
        if begun.len() >= BATCH_BYTES {
            return Pending::Bytes;
        }
        let mut batch = BytesMut::from(&begun[..]);
        let stopped = self.number_outbox(&mut batch, tracer).and_then(|()| match self.is_numbering {
            true => self.number_channels(&mut batch, counted, unparks, tracer),
            false => Ok(()),
        });
        if !batch.is_empty() || self.work.is_some() {
            self.work().begun = batch.freeze();
        }
        stopped.err().unwrap_or(Pending::Nothing)
    }

    fn number_outbox(&mut self, batch: &mut BytesMut, tracer: Tracer<'_>) -> Result<(), Pending> {
        while let Some(outgoing) = self.work.as_ref().and_then(|work| work.outbox.front()) {
            if batch.len() >= BATCH_BYTES {
                return Err(Pending::Bytes);
            }
            let (body, numbering) = (outgoing.bytes.clone(), outgoing.numbering);
            match numbering {
                None => batch.extend_from_slice(&body),
                Some(Numbering::Fixed(seq)) => write(self.form, seq, &body, batch),
                Some(Numbering::Next { answers }) => {
                    let seq = self.take_number(|ledger| ledger.begin_frame(body.clone(), answers))?;
                    write(self.form, seq, &body, batch);
                }
            }
            if let Some(outgoing) = self.work().outbox.pop() {
                tracer.written(outgoing.answers);
            }
        }
        Ok(())
    }

    fn number_channels(
        &mut self,
        batch: &mut BytesMut,
        counted: &mut Written,
        unparks: Unparks<'_>,
        tracer: Tracer<'_>,
    ) -> Result<(), Pending> {
        for step in 0..self.channels.len() {
            let index = (self.turn + step) % self.channels.len();
            self.number_channel(index, batch, counted, unparks, tracer)?;
        }
        Ok(())
    }

    fn number_channel(
        &mut self,
        index: usize,
        batch: &mut BytesMut,
        counted: &mut Written,
        unparks: Unparks<'_>,
        tracer: Tracer<'_>,
    ) -> Result<(), Pending> {
        let mut pieces = Vec::new();
        loop {
            if batch.len() >= BATCH_BYTES {
                self.turn = index + 1;
                return Err(Pending::Bytes);
            }
            let form = self.form;
            let live = &self.channels[index];
            let name = live.name().clone();
            let mut cursor = live.cursor;
            let before = cursor.position();
            // One publication at a time: each has a number of its own.
            let encode = Counting::new(form);
            let outcome = live.log().read(&mut cursor, form.variant(), &encode, 0, &mut pieces);
            let is_read = outcome == ReadOutcome::AtHead && pieces.is_empty();
            let is_parked = is_read && live.subscription.park(&cursor, unparks);
            counted.encoded += encode.take();
            if is_parked {
                return Ok(());
            }
            if let ReadOutcome::Gap { from, next } = outcome {
                let told = trunkline_session::protocol0::down_for_protocol0(gap_frame(&name, from, next));
                for frame in told {
                    let body = Bytes::from(form.dialect.encode_down(&frame));
                    let seq =
                        self.take_number(|ledger| ledger.begin_gap(&name, to_session(next), body.clone()))?;
                    write(form, seq, &body, batch);
                }
                tracer.gap(&name, from, next);
                counted.gaps += 1;
            }
            for piece in pieces.drain(..) {
                let at = to_session(piece.last);
                let seq = self.take_number(|ledger| ledger.begin_publication(&name, at))?;
                write(form, seq, &piece.bytes, batch);
                tracer.delivered(&name, before, piece.last);
                counted.deliveries += 1;
            }
            self.channels[index].cursor = cursor;
        }
    }

    fn take_number(
        &self,
        take: impl FnOnce(&mut Ledger) -> Result<Seq, LedgerError>,
    ) -> Result<Seq, Pending> {
        let Some(ledger) = &self.ledger else { return Ok(Seq(0)) };
        take(&mut ledger.lock()).map_err(Pending::from)
    }
}

fn write(form: WireForm, seq: Seq, body: &Bytes, batch: &mut BytesMut) {
    let (head, rest) = form.numbered(seq, body);
    batch.extend_from_slice(&head);
    batch.extend_from_slice(&rest);
}
