//! Frames of protocol 1 in the words of the seed.

use trunkline_proto::wire::{BusinessResponse, ChannelResponse, ErrorMessage, Verdict};
use trunkline_proto::{DownBody, DownFrame, ErrorCode};

use crate::engine::gap_text;

/// What a seed client is sent in a frame's place: several frames for a group, none where it has no word for it.
///
/// The frames are still without number, and publications without channel and position: the seed's `ServerPush` ends
/// at field 5.
pub fn down_for_protocol0(frame: DownFrame) -> Vec<DownFrame> {
    let channel = frame.position.map(|position| position.channel).unwrap_or_default();
    let frame = DownFrame { position: None, ..frame };
    match frame.body {
        DownBody::Group(frames) => frames.into_iter().flat_map(down_for_protocol0).collect(),
        // The connection's close says it.
        DownBody::Close(_) => Vec::new(),
        DownBody::Gap(gap) => vec![error(0, ErrorCode::Gone.message(gap_text(&gap)))],
        DownBody::Publication(publication) => {
            let body = DownBody::BusinessData(BusinessResponse {
                code: 200,
                message: format!("[{channel}]"),
                data: publication.data,
                ..BusinessResponse::default()
            });
            vec![DownFrame { body, ..frame }]
        }
        DownBody::ChannelResp(told) if frame.msg_id == 0 => channel_told(told),
        body => vec![DownFrame { body, ..frame }],
    }
}

/// Does the frame take a number? All do but the START_RESP of a resume, which comes before the numbers go on, and
/// that of a START refused, which belongs to no session.
pub fn is_numbered(frame: &DownFrame) -> bool {
    match &frame.body {
        DownBody::StartResp(response) => response.success && response.verdict == Verdict::Fresh as i32,
        _ => true,
    }
}

/// The `msg_id` of the call that this frame may be the answer to, else 0.
pub fn answers(frame: &DownFrame) -> u32 {
    match &frame.body {
        DownBody::BusinessData(_) | DownBody::Error(_) => frame.msg_id,
        _ => 0,
    }
}

/// In a number's place whose publication the log no longer has: the numbers have no hole, and the loss is told.
pub fn lost_publication(channel: &str, offset: u64) -> DownFrame {
    error(0, ErrorCode::Gone.message(format!("{channel}: the push at {offset} is lost")))
}

/// Joined to a channel: a seed client would not know what that is. Taken off: it is told why nothing more comes.
fn channel_told(told: ChannelResponse) -> Vec<DownFrame> {
    told.error.into_iter().map(|why| error(0, why)).collect()
}

fn error(msg_id: u32, error: ErrorMessage) -> DownFrame {
    DownFrame::new(msg_id, DownBody::Error(error))
}

#[cfg(test)]
mod tests {
    use trunkline_proto::wire::{ChannelGap, ChannelPosition, CloseNotice, Publication, StartResponse};

    use super::*;

    fn business(message: &str) -> DownFrame {
        let body = BusinessResponse { code: 200, message: message.into(), ..BusinessResponse::default() };
        DownFrame::new(0, DownBody::BusinessData(body))
    }

    #[test]
    fn a_group_is_unrolled_in_its_order() {
        let group = DownFrame::new(4, DownBody::Group(vec![business("b"), business("r"), business("a")]));
        assert_eq!(down_for_protocol0(group), [business("b"), business("r"), business("a")]);
    }

    #[test]
    fn o2_publications_and_pushes_have_one_format() {
        let position = ChannelPosition { channel: "room:1".into(), epoch: 5, offset: 9 };
        let publication = Publication { data: "hi".into(), ..Publication::default() };
        let frame = DownFrame::publication(position.clone(), DownBody::Publication(publication));
        let seed = down_for_protocol0(frame);
        assert_eq!(seed.len(), 1);
        assert_eq!(seed[0].position, None);
        let DownBody::BusinessData(body) = &seed[0].body else { panic!("{seed:?}") };
        assert_eq!((body.code, body.message.as_str(), &body.data[..]), (200, "[room:1]", &b"hi"[..]));

        let push = DownFrame { position: Some(position), ..business("[mail] Hello") };
        assert_eq!(down_for_protocol0(push), [business("[mail] Hello")]);
    }

    #[test]
    fn gaps_are_errors_and_closes_are_not_sent() {
        let next = ChannelPosition { channel: "all".into(), epoch: 5, offset: 9 };
        let gap = ChannelGap { channel: "all".into(), epoch: 5, offset: 3, next: Some(next) };
        let told = down_for_protocol0(DownFrame::new(0, DownBody::Gap(gap)));
        let DownBody::Error(error) = &told[0].body else { panic!("{told:?}") };
        assert_eq!((error.error_code, error.error_message.as_str()), (410, "all: lost after 3, up to 9"));
        let close = DownFrame::new(0, DownBody::Close(CloseNotice::default()));
        assert_eq!(down_for_protocol0(close), []);
    }

    #[test]
    fn only_the_start_resp_of_a_resume_or_a_refusal_has_no_number() {
        let start = |success, verdict: Verdict| {
            let response = StartResponse { success, verdict: verdict as i32, ..StartResponse::default() };
            is_numbered(&DownFrame::new(1, DownBody::StartResp(response.into())))
        };
        assert!(start(true, Verdict::Fresh) && is_numbered(&business("x")));
        assert!(
            !start(true, Verdict::Resumed) && !start(true, Verdict::Gap) && !start(false, Verdict::Fresh)
        );
    }
}
