//! The `json` dialect.

use bytes::Bytes;

use crate::dialect::DecodeError;
use crate::frame::{DownFrame, UpFrame};

pub(crate) fn decode_up(_frame: &Bytes) -> Result<UpFrame, DecodeError> {
    Err(DecodeError::Malformed("the json dialect is not built yet".into()))
}
pub(crate) fn encode_up(_frame: &UpFrame) -> Vec<u8> {
    Vec::new()
}
pub(crate) fn decode_down(_frame: &Bytes) -> Result<DownFrame, DecodeError> {
    Err(DecodeError::Malformed("the json dialect is not built yet".into()))
}
pub(crate) fn encode_down(_frame: &DownFrame) -> Vec<u8> {
    Vec::new()
}
