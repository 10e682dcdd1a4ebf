//! Every tuned number of the connection level, with its reason. Nothing here reads a configuration.

use std::time::Duration;

/// Largest payload of one frame, or of one WebSocket message over all its fragments.
pub const MAX_FRAME: usize = 1 << 20;

/// A handshake (TLS, HTTP upgrade, QUIC) that takes longer is dropped. A round trip to the far side of the
/// world is 0.3 s and a full handshake needs at most four, so 5 s leaves room for two lost packets.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a QUIC or WebTransport peer may take to open its frame stream once the handshake is done: the
/// same 10 s that a session has for its START.
pub const FIRST_STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes that may be under way at once on one listener. A TLS handshake holds about 20 KB, so the cap
/// bounds what unauthenticated peers cost at 20 MB.
pub const MAX_HANDSHAKES: usize = 1024;

/// At the cap a newcomer may replace the oldest handshake once that is this old. Real handshakes end well
/// within it, so a storm of them waits in the kernel's backlog, while silent peers cost others at most this.
pub const HANDSHAKE_GRACE: Duration = Duration::from_secs(1);

/// First flights of QUIC that may wait for each handshake that may be under way. One is an Initial or two, so all
/// of them are 16 MiB at most; a client repeats what is dropped.
pub const INCOMING_PER_HANDSHAKE: usize = 4;

/// Bytes that one first flight may hold before it is looked at: a dozen datagrams, while a ClientHello with every
/// extension and a large key share is three.
pub const INCOMING_BUFFER: u64 = 16 << 10;

/// The same over all of them: each of 4,096 has room for three datagrams.
pub const INCOMING_BUFFERS: u64 = 16 << 20;

/// Pause of an accept loop that found no descriptor or memory left: long enough not to spin, short enough to
/// be unnoticed once some connection has ended.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// While accepting fails for want of descriptors it is tried again every [`ACCEPT_BACKOFF`]; the log says so this often.
pub const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// Pending connections that the kernel keeps for an accept loop that is busy.
pub const BACKLOG: u32 = 4096;

/// Size of the read buffer that all connections of one thread share: the largest read that still fits the
/// second-level cache with room to spare; sixteen TLS records of 4 KB, or four full ones.
pub const READ_BUFFER: usize = 64 << 10;

/// Above TLS and QUIC the writer copies at most this much at once: one full TLS record.
pub const COPY: usize = 16 << 10;

/// Bytes in each of the first TLS records of a connection: one fits a packet of 1,500 bytes beside the heads of IPv6,
/// TCP with its options and TLS. Size and count are those of nginx's well-known patch for dynamic records.
pub const EARLY_RECORD: usize = 1_369;

/// How many records are small: 53 KiB, at 1 % more bytes.
pub const EARLY_RECORDS: usize = 40;

/// Above TLS and QUIC a connection accepts bytes only while less than this is unsent, so that a slow reader
/// cannot hold more plaintext than the kernel's own socket buffer would. A QUIC client, which has few, may have 1 MiB.
pub const UNSENT: usize = 64 << 10;

/// The send window of a QUIC connection once it carries more than the frame stream: 1 MiB fills 80 Mbit/s
/// at a round trip of 100 ms, which the 64 KiB of the frame stream alone would not.
pub const STREAMS_SEND_WINDOW: u64 = 1 << 20;

/// The send window of a client's QUIC connection: a client has few, so that memory is no reason to stop and wait for
/// every 64 KiB to be acknowledged.
pub const CLIENT_SEND_WINDOW: u64 = 1 << 20;

/// Further bidirectional streams a peer may have open at once beside its frames: what a session's services may
/// have.
pub const MAX_STREAMS: u32 = 16;

/// Lanes of one connection that have a stream of their own, each way; later ones share that of the rest. A game has three
/// or four. A peer that fills the window of every one while nobody reads costs nine times [`STREAM_RECEIVE_WINDOW`].
pub const LANE_STREAMS: u32 = 8;

/// Unidirectional streams of an HTTP/3 peer: its control stream and two for QPACK (RFC 9114 section 6.2). Nobody
/// else has any.
pub const H3_UNI_STREAMS: u32 = 3;

/// Bytes of datagrams that wait to be read; beyond it the oldest are dropped. 64 KiB is 50 datagrams of a full
/// path's 1,200 bytes: what comes while one wake-up is late.
pub const DATAGRAM_BUFFER: usize = 64 << 10;

/// HTTP/3 wants datagrams announced where WebTransport is (RFC 9297 section 2.1), even if nobody reads them: the
/// room of one.
pub const H3_DATAGRAM_BUFFER: usize = 2 << 10;

/// Receive window of one QUIC stream. A frame of 1 MiB passes in a few round trips; a peer that fills it
/// while nobody reads costs this much and no more.
pub const STREAM_RECEIVE_WINDOW: u32 = 256 << 10;

/// Receive window of one QUIC connection over all its streams, where it may have many: four that nobody reads.
pub const RECEIVE_WINDOW: u32 = 1 << 20;

/// The same until the frame stream is there: what a stranger may make us hold in each of the handshakes. A first
/// request and a START fit in many times.
pub const HANDSHAKE_WINDOW: u32 = 64 << 10;

/// QUIC's search for the largest packet ends when this is all there is to gain: more than half of what lies between QUIC's least,
/// 1,200 bytes, and the 1,452 that Ethernet carries, so that the larger ones are tried at once.
pub const MTU_STEP: u16 = 127;

/// A QUIC connection without a packet for this long is gone. The session level calls a peer silent after 2.5
/// heartbeats of 25 s = 62.5 s; QUIC must not decide earlier.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Seconds that a TLS ticket is good for: a device that slept for the night makes a full handshake again, one that
/// changes networks during a day does not. RFC 8446 allows seven days.
pub const TICKET_LIFETIME: u32 = 6 * 3_600;

/// Tickets that a client asks for in a full handshake (RFC 9149), where the server knows of that: one for the next connection,
/// and three for attempts that fail or connections at once, each of which takes one.
pub const NEW_TICKETS: u8 = 4;

/// The same in a handshake that resumes: in place of the ticket that it took. Each is some 2 % of such a
/// handshake.
pub const RESUMED_TICKETS: u8 = 1;

/// Sessions that a listener which takes early data remembers, so that their clients may use it once: of some 300 bytes, so
/// 1.2 MiB. Whoever is not among the last makes a full handshake.
pub const EARLY_SESSIONS: usize = 4096;

/// What a client sends before its handshake is complete. If the server's first answers are lost, all of it is still under
/// way when the handshake goes on, and quinn completes no handshake that its congestion window has no room for; so it is
/// half of that window, which are the first ten packets of a new connection (RFC 9002 section 7.2).
pub const EARLY_BYTES: usize = 6 << 10;

/// Between two stateless resets. A restarted process tells each connection of the former one with the first packet
/// that it sends: 10,000 of them within a second. A reset is smaller than what asked for it, so it amplifies nothing.
pub const RESET_INTERVAL: Duration = Duration::from_micros(100);

/// How long one address of a host may be silent before the next one is tried beside it (RFC 8305 section 5).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Largest head of an HTTP upgrade, request or response: hyper's own default order, enough for cookies.
pub const MAX_HTTP_HEAD: usize = 16 << 10;

/// Largest reason of a WebSocket close frame: control frames hold 125 bytes, two of them are the code.
pub const MAX_CLOSE_REASON: usize = 123;

/// Bytes that wait in one direction of an in-memory connection, as a socket's buffer would.
pub const MEMORY_BUFFER: usize = 64 << 10;

/// Largest payload from a peer that has yet to prove itself: a token and what belongs to it are a few KiB, and a
/// thousand strangers hold 64 MiB at most.
pub const BEFORE_AUTH: usize = 64 << 10;

/// Packets that wait to be sent on one connection: four times what the kernel takes at once.
pub const QUEUED_BYTES: usize = 256 << 10;

/// Packets that wait to be taken by the user of one connection.
pub const RECEIVED_BYTES: usize = 256 << 10;

/// Everything that waits, over all connections of a server: four thousand full queues.
pub const TOTAL_BYTES: usize = 1 << 30;

/// Requests in flight on one connection, in each direction.
pub const REQUESTS: usize = 64;

/// How long a request waits for its response unless told otherwise; MsgTrans' own figure.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What may be on its way of one streamed reply: as much as one queue holds.
pub const STREAM_WINDOW: u32 = 256 << 10;

/// A peer whose queue is full and has not moved for this long is slow; MsgTrans' write deadline.
pub const SLOW_PEER: Duration = Duration::from_secs(30);

/// Interval of heartbeats: below the 30 s after which common proxies and NATs forget a silent connection.
pub const HEARTBEAT: Duration = Duration::from_secs(25);

/// The least interval of heartbeats: below it a loaded machine would find the living dead.
pub const MIN_HEARTBEAT: Duration = Duration::from_millis(10);

/// What any longer time is taken for: whoever asks for more than a year means never, and a sum with the clock of now has to be a
/// time (tokio's timers reach two years).
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);

/// A peer is gone that was not heard for so many halves of the interval of heartbeats: two lost answers, and half an interval
/// for the third.
pub const SILENT_HALF_INTERVALS: u32 = 5;

/// Who sends or takes so much of a packet is heard, although nothing else comes from it meanwhile.
pub const LEAST_PROGRESS: usize = 4 << 10;

/// Heartbeats in a row that are left out while the peer's own come, so that two sides do not ask each other the same, or while
/// packets come and go. The next one goes out all the same: only who asks learns the round-trip time.
pub const SPARED_HEARTBEATS: u32 = 3;

/// Heartbeats of a process that come at one moment, at the most while it has few enough connections: two milliseconds of work.
/// Each moment wakes the processor, which finds its caches cold; a heartbeat among a hundred costs two thirds of one among twenty.
pub const TOGETHER: usize = 100;

/// How many such moments an interval has: the first of these that suffices, or the last. Each 1 s of 25 s for up to 2,500
/// connections, each 125 ms for 100,000, which then are 500 at a time. Each doubles the one before it: who keeps his pace stays
/// together with the others when there are more of them.
pub const MOMENTS: [u32; 4] = [25, 50, 100, 200];

/// How long a closing connection may take to send what is queued, and a shutdown to answer what is in flight.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a shutdown waits, once its time is over, until those that it has cut have noticed: many times what a busy runtime
/// needs for a turn of all its tasks. Who has not by then is held up by a handler that blocks.
pub const CUT_GRACE: Duration = Duration::from_secs(1);

/// Requests of a peer that are remembered as unanswered, so that a shutdown waits for them; older ones beyond are
/// forgotten, not refused.
pub const OPEN_REQUESTS: usize = 4096;

/// Connections that have ended while their events are unread, and that keep their packets: a mass disconnect is over in one turn
/// of a reader. Of more, all but the packets is kept.
pub const ENDED_CONNECTIONS: usize = 1024;

/// Payloads up to this size are copied into the output buffer, where many leave in one piece; longer ones are
/// shared. Below it a copy costs less than a further part of the vectored write.
pub const COALESCE: usize = 4 << 10;

/// Size up to which a payload is compressed or inflated where it is. zstd inflates 64 KiB in well under 0.1 ms.
pub const INLINE_COMPRESSION: usize = 64 << 10;

/// The longest dictionary for compression: `zstd --train` makes 110 KiB unless told otherwise.
pub const MAX_DICTIONARY: usize = 1 << 20;

/// Files in a directory of qlogs.
#[cfg(feature = "qlog")]
pub const QLOG_FILES: usize = 64;

/// Bytes of each of them, which have about 25,000 packets: 256 MiB all together.
#[cfg(feature = "qlog")]
pub const QLOG_BYTES: usize = 4 << 20;

/// Connections that a server holds unless told otherwise.
pub const MAX_CONNECTIONS: usize = 100_000;

/// How long a client's attempt to connect may take, name look-up included; MsgTrans' own figure.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the kernel lets a silent TCP connection be before it asks whether the peer is there: a v1 peer is watched
/// by nothing else.
pub const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long a peer whose wire is not known may take for its first packet. A v2 client speaks at once; a v1 client that
/// only listens has this long to say anything. As long as QUIC lets it take for its stream.
pub const FIRST_PACKET: Duration = IDLE_TIMEOUT;

/// How long a peer may take to prove itself: the check may ask a database, and a person who types is not waited for.
pub const AUTH_TIMEOUT: Duration = Duration::from_secs(10);

/// Addresses whose rates are known one by one: 65,536 of about 100 bytes are 6.5 MB.
pub const RATE_ADDRESSES: usize = 65_536;

/// The longest pause between two attempts of a client: a server that was away for the night is found within half a minute.
pub const RETRY_CAP: Duration = Duration::from_secs(30);

/// A connection that lives for less counts as a failed attempt, so that a server which drops everybody is not tried
/// without pause.
pub const STABLE_CONNECTION: Duration = Duration::from_secs(5);

/// Pause before the first further attempt of a client that keeps its connections by itself, at most.
pub const RETRY_INITIAL: Duration = Duration::from_millis(100);
