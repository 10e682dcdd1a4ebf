//! A peer that stops reading: it costs a bounded number of bytes, it does not stop our reading, and everything
//! arrives once it reads again.

use std::{future::poll_fn, io::IoSlice, time::Duration};

use tokio::time::timeout;
use trunkline_transport::{FrameKind, Protocol};

use crate::harness::{frame, pair, pattern, within};

const FRAME: usize = 32 << 10;

#[tokio::test]
async fn a_client_that_stops_reading_bounds_what_is_accepted_and_loses_nothing() {
    for protocol in Protocol::ALL {
        // TCP: what the kernel holds on both sides (Linux: up to 4 MB and 6 MB by default), TLS 64 KiB more;
        // QUIC: the stream's window at the client and what may be unsent; memory: its pipe.
        let bound = match protocol {
            Protocol::Tcp | Protocol::Tls | Protocol::WebSocket | Protocol::WebSocketTls => 24 << 20,
            Protocol::Quic | Protocol::WebTransport => (256 + 64) << 10,
            Protocol::Memory | Protocol::Unix | Protocol::Custom(_) => 64 << 10,
        };
        let frames = bound / FRAME + 32;
        let (mut client, mut server) = pair(protocol, 1 << 20).await;
        let payload = pattern(FRAME);
        let one = server.writer.framing().frame(FrameKind::Binary, &payload);
        let bytes = one.repeat(frames);

        // Fill it up: the peer does not read, so it must stop taking before all is written.
        let mut accepted = 0;
        let stalled = Duration::from_millis(300);
        while let Ok(written) = timeout(
            stalled,
            poll_fn(|cx| server.writer.poll_write_vectored(cx, &[IoSlice::new(&bytes[accepted..])])),
        )
        .await
        {
            accepted += written.unwrap();
            assert!(accepted <= bound, "{protocol}: {accepted} bytes accepted for a peer that does not read");
        }

        // Reading does not wait for writing.
        for i in 0..100u32 {
            within(client.writer.send(FrameKind::Binary, &i.to_be_bytes())).await.unwrap();
            assert_eq!(frame(&mut server).await.bytes, i.to_be_bytes()[..], "{protocol}");
        }

        // The peer reads again: everything is there, in order.
        within(async {
            let writing = async { server.writer.write_all(&bytes[accepted..]).await.unwrap() };
            let reading = async {
                for i in 0..frames {
                    assert!(frame(&mut client).await.bytes == payload, "{protocol}: frame {i} is damaged");
                }
            };
            tokio::join!(writing, reading);
        })
        .await;
    }
}

#[tokio::test]
async fn small_buffers_leave_in_one_write() {
    for protocol in Protocol::ALL {
        let (mut client, mut server) = pair(protocol, 1 << 20).await;
        let framing = client.writer.framing();
        let frames: Vec<_> = (0..50u8).map(|i| framing.frame(FrameKind::Binary, &[i; 20])).collect();
        let slices: Vec<_> = std::iter::once(IoSlice::new(&[]))
            .chain(frames.iter().map(|frame| IoSlice::new(frame)))
            .collect();
        let written = within(poll_fn(|cx| client.writer.poll_write_vectored(cx, &slices))).await.unwrap();
        assert_eq!(written, frames.iter().map(|frame| frame.len()).sum::<usize>(), "{protocol}");
        within(poll_fn(|cx| client.writer.poll_flush(cx))).await.unwrap();
        for i in 0..50u8 {
            assert_eq!(frame(&mut server).await.bytes, [i; 20][..], "{protocol}");
        }
        let nothing = within(poll_fn(|cx| client.writer.poll_write_vectored(cx, &[]))).await.unwrap();
        assert_eq!(nothing, 0);
    }
}
