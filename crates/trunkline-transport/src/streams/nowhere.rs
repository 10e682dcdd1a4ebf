//! Without QUIC nothing carries further streams: there is no value of these types, so that whoever has one may ask it
//! anything. The rest of the crate is the same with and without.

use std::{
    future::Ready,
    io::{self, IoSlice},
    net::SocketAddr,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::StreamError;
use crate::source::Source;

#[derive(Clone, Debug)]
pub(crate) enum Carrier {}

#[derive(Debug)]
pub(super) enum SendHalf {}

#[derive(Debug)]
pub(super) enum RecvHalf {}

impl Carrier {
    pub(super) fn widen(&self) {
        match *self {}
    }

    pub(super) fn open(&self) -> Ready<Result<(SendHalf, RecvHalf), StreamError>> {
        match *self {}
    }

    pub(super) fn accept(&self) -> Ready<Result<(SendHalf, RecvHalf), StreamError>> {
        match *self {}
    }

    pub(super) fn accept_unidirectional(&self) -> Ready<Result<RecvHalf, StreamError>> {
        match *self {}
    }

    pub(super) fn open_unidirectional(&self) -> Ready<Result<SendHalf, StreamError>> {
        match *self {}
    }

    pub(super) fn allow_lanes(&self) {
        match *self {}
    }

    pub(super) fn send_datagram(&self, _: Bytes) -> Result<(), StreamError> {
        match *self {}
    }

    pub(super) fn read_datagram(&self) -> Ready<Result<Bytes, StreamError>> {
        match *self {}
    }

    pub(super) fn max_datagram_size(&self) -> Option<usize> {
        match *self {}
    }

    pub(super) fn rebind(&self, _: SocketAddr) -> io::Result<()> {
        match *self {}
    }
}

impl SendHalf {
    pub(super) fn finish(&mut self) {
        match *self {}
    }

    pub(super) fn reset(&mut self, _: u32) {
        match *self {}
    }

    pub(super) fn stopped(&self) -> Ready<Result<Option<u64>, StreamError>> {
        match *self {}
    }

    pub(super) fn poll_write(&mut self, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        _: &mut Context<'_>,
        _: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match *self {}
    }
}

impl RecvHalf {
    pub(super) fn stop(&mut self, _: u32) {
        match *self {}
    }

    pub(super) fn poll_read(&mut self, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }

    pub(super) fn into_source(self) -> Source {
        match self {}
    }
}
