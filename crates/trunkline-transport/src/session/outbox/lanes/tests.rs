//! What queues of lanes promise each other.

use bytes::Bytes;

use super::*;
use crate::{
    Packet, Wire,
    packet::encode::header,
    session::outbox::{Often, State},
};

const LIMIT: usize = 1000;

/// An outbox whose peer takes lanes on streams of their own.
fn outbox() -> Outbox {
    let mut out = Outbox::new(LIMIT, false);
    out.lane_way = LaneWay::Own;
    out
}

/// Appends so many bytes, framing included, to a lane's queue, or to the rest's.
fn append(out: &mut Outbox, lane: u8, size: usize) {
    let packet = Packet::new(vec![0; size - 20]);
    let header = header(&packet, Wire::V2).unwrap();
    let payload: &Bytes = &packet.payload;
    let added = match out.queue_of(lane) {
        0 => out.append(Framing::Length, header, &[], payload, true, Often::Always),
        lane => out.push_lane(lane, Framing::Length, header, &[], payload),
    };
    assert_eq!(added, size);
}

fn latest(size: usize) -> Vec<u8> {
    vec![0; size]
}

/// As the writer: the lane's next batch leaves whole.
fn write(out: &mut Outbox, at: usize) -> usize {
    let mut batch = VecDeque::new();
    out.take_lane_batch(at, &mut batch);
    let bytes = batch.iter().map(|part| part.bytes().len()).sum();
    out.lane_written(at, bytes, &mut Vec::new());
    bytes
}

#[test]
fn a_queue_that_does_not_move_leaves_room_for_the_others() {
    let mut out = outbox();
    for lane in [1, 2, 3] {
        let mut held = 0;
        while out.queue_of(lane) == lane && out.has_room(lane, 50) {
            append(&mut out, lane, 50);
            held += 50;
        }
        assert!(held > 0, "lane {lane}");
    }
    assert!(out.has_room(0, 50), "{} are queued", out.queued());
    append(&mut out, 0, 50);
    assert_eq!(out.queue_of(4), 4);
    assert!(out.has_room(4, 50), "{} are queued", out.queued());
    assert!(!out.has_room(1, 50) && out.queued() < LIMIT);
    // Alone it would take everything.
    let mut alone = Outbox::new(LIMIT, false);
    while alone.has_room(0, 50) {
        append(&mut alone, 0, 50);
    }
    assert_eq!(alone.queued(), LIMIT);
}

#[test]
fn who_waits_for_room_in_one_queue_is_woken_by_that_one() {
    let mut out = outbox();
    append(&mut out, 1, 450);
    append(&mut out, 2, 450);
    assert!(!out.has_room(2, 200));
    assert!(out.wait_for_room(2, Waker::noop()), "the first who waits");
    assert!(!out.wait_for_room(2, Waker::noop()));
    assert!(out.is_lane_pressed(1) && !out.is_lane_pressed(0));
    assert_eq!(write(&mut out, 1), 450);
    assert!(!out.is_lane_pressed(1), "it was told");
    assert!(out.room.is_empty() && out.has_room(2, 200));
}

#[test]
fn each_queue_is_flushed_by_itself() {
    let mut out = outbox();
    append(&mut out, 1, 100);
    append(&mut out, 2, 100);
    append(&mut out, 0, 100);
    let marks = out.lane_marks();
    assert_eq!(write(&mut out, 1), 100);
    assert!(!out.is_flushed(marks[0]) && out.is_flushed(marks[1]) && !out.is_flushed(out.mark(0)));
    assert_eq!(write(&mut out, 0), 100);
    assert!(out.is_flushed(marks[0]));
    assert_eq!((out.queued(), out.lanes_queued()), (100, 0));
}

#[test]
fn what_is_replaced_is_not_done_before_what_stands_in_front_of_it() {
    let mut out = outbox();
    append(&mut out, 1, 100);
    let first = out.mark(1);
    assert_eq!(out.put_lane_latest(1, latest(300)), None);
    assert_eq!(out.put_lane_latest(1, latest(40)), Some(300));
    assert_eq!(out.put_lane_latest(1, latest(50)), Some(40));
    let last = out.mark(1);
    assert_eq!(out.queued(), 150);
    assert!(!out.is_flushed(first));
    assert_eq!(write(&mut out, 0), 100);
    assert!(out.is_flushed(first) && !out.is_flushed(last));
    assert_eq!(write(&mut out, 0), 50);
    assert!(out.is_flushed(last));
    assert_eq!(out.queued(), 0);
}

#[test]
fn without_streams_lanes_join_the_rest_in_their_order() {
    let mut out = Outbox::new(LIMIT, false);
    out.lane_way = LaneWay::Undecided;
    append(&mut out, 1, 100);
    append(&mut out, 0, 30);
    assert_eq!(out.put_lane_latest(1, latest(60)), None);
    let mark = out.mark(1);
    out.wait_for_flush(mark, Waker::noop());
    out.share_lanes();
    assert_eq!((out.queue_of(1), out.queued(), out.lanes_queued()), (0, 190, 0));
    let mut batch = VecDeque::new();
    assert!(out.take_batch(&mut batch));
    let sizes: Vec<usize> = batch.iter().map(|part| part.bytes().len()).collect();
    assert_eq!(sizes, [30, 100, 60]);
    out.written(130, &mut Vec::new());
    assert!(!out.is_flushed(mark) && !out.flushing.is_empty());
    out.written(60, &mut Vec::new());
    assert!(out.is_flushed(mark) && out.flushing.is_empty());
}

#[test]
fn later_lanes_share_for_good_and_the_end_gives_everything_back() {
    let mut out = outbox();
    for lane in 1..=8 {
        assert_eq!(out.queue_of(lane), lane);
    }
    assert_eq!((out.queue_of(9), out.queue_of(0), out.queue_of(8)), (0, 0, 8));
    append(&mut out, 8, 100);
    append(&mut out, 9, 50);
    out.keep_unsent(VecDeque::new(), 0);
    out.keep_lanes_unsent(Vec::new());
    let (queued, _) = out.end(crate::CloseReason::Ended);
    assert_eq!((queued, out.queued(), out.lanes_queued()), (150, 0, 0));
    assert!(matches!(out.state, State::Closed(_)));
    let unsent = std::mem::take(&mut out.unsent);
    let given_back = unsent.into_iter().flat_map(|unsent| unsent.packets(Framing::Length, None));
    assert_eq!(given_back.map(|packet| packet.payload.len()).collect::<Vec<_>>(), [30, 80]);
}
