// SPDX-License-Identifier: Apache-2.0
//! Ordinary traffic: ping, TCP and UDP echo, iperf3.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::netns::Netns;
use crate::programs::{Running, run};
use crate::wait::{HUNG, poll};

/// How often a server's thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// One echo request of `size` payload bytes; true if it was answered within `wait` seconds.
pub fn ping_once(from: &Netns, to: IpAddr, size: usize, wait: u32) -> bool {
    let mut ping = from.command("ping");
    ping.args(["-n", "-q", "-c", "1"])
        .args(["-W", &wait.to_string()])
        .args(["-s", &size.to_string()]);
    run(ping.arg(to.to_string()), b"", HUNG).status == 0
}

/// Pings until the first answer.
///
/// # Panics
/// If there is none before the machine must be called hung.
#[track_caller]
pub fn ping(from: &Netns, to: IpAddr) {
    let answered = poll(HUNG, || ping_once(from, to, 56, 1).then_some(()));
    assert!(
        answered.is_some(),
        "{to} does not answer pings from {}",
        from.path().display()
    );
}

/// True if none of a few pings is answered.
pub fn ping_fails(from: &Netns, to: IpAddr) -> bool {
    (0..3).all(|_| !ping_once(from, to, 56, 1))
}

/// A server that echoes what it receives, over TCP and UDP, on one port of a namespace; ended when dropped.
#[derive(Debug)]
pub struct Echo {
    port: u16,
    stop: Arc<AtomicBool>,
    datagrams: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Listens on `port` of every address of the namespace, IPv4 and IPv6.
    ///
    /// # Panics
    /// If the port is taken.
    #[track_caller]
    pub fn start(netns: &Netns, port: u16) -> Echo {
        let any = SocketAddr::new(IpAddr::from([0u16; 8]), port);
        let (tcp, udp) = netns.run(|| {
            let tcp = TcpListener::bind(any).unwrap_or_else(|e| panic!("TCP port {port}: {e}"));
            let udp = UdpSocket::bind(any).unwrap_or_else(|e| panic!("UDP port {port}: {e}"));
            (tcp, udp)
        });
        tcp.set_nonblocking(true).expect("a non-blocking listener");
        udp.set_read_timeout(Some(LOOK)).expect("a read timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let datagrams = Arc::new(AtomicU64::new(0));
        let (stop_tcp, stop_udp, count) = (stop.clone(), stop.clone(), datagrams.clone());
        let threads = vec![
            std::thread::spawn(move || serve_tcp(&tcp, &stop_tcp)),
            std::thread::spawn(move || serve_udp(&udp, &stop_udp, &count)),
        ];
        Echo {
            port,
            stop,
            datagrams,
            threads,
        }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Datagrams echoed up to now.
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    std::thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            let accepted = poll(LOOK, || listener.accept().ok());
            if let Some((stream, _)) = accepted {
                scope.spawn(|| echo_stream(stream, stop));
            }
        }
    });
}

fn echo_stream(mut stream: TcpStream, stop: &AtomicBool) {
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(LOOK)));
    let mut buffer = vec![0; 65_536];
    while ready.is_ok() && !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) if stream.write_all(&buffer[..length]).is_ok() => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => return,
        }
    }
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool, count: &AtomicU64) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::Relaxed);
            let _ = socket.send_to(&buffer[..length], peer);
        }
    }
}

/// Connects over TCP from a namespace, within `wait`.
pub fn tcp_connect(
    from: &Netns,
    to: IpAddr,
    port: u16,
    wait: Duration,
) -> std::io::Result<TcpStream> {
    from.run(|| TcpStream::connect_timeout(&SocketAddr::new(to, port), wait))
}

/// Sends `bytes` over a TCP connection to an [`Echo`] and checks that they all come back.
///
/// # Panics
/// If they do not.
#[track_caller]
pub fn tcp_echo(stream: &mut TcpStream, bytes: &[u8]) {
    stream.set_read_timeout(Some(HUNG)).expect("a read timeout");
    stream
        .set_write_timeout(Some(HUNG))
        .expect("a write timeout");
    let mut writer = stream.try_clone().expect("a second handle");
    let back = std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(bytes).expect("write to the echo server"));
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).map(|()| back)
    });
    let back = back.unwrap_or_else(|e| panic!("the echo of {} bytes: {e}", bytes.len()));
    assert!(
        back == bytes,
        "the echo of {} bytes differs from what was sent",
        bytes.len()
    );
}

/// A connected UDP socket of a namespace.
///
/// # Panics
/// If there is no way to `to`.
#[track_caller]
pub fn udp_socket(from: &Netns, to: IpAddr, port: u16) -> UdpSocket {
    let any = if to.is_ipv4() {
        IpAddr::from([0u8; 4])
    } else {
        IpAddr::from([0u16; 8])
    };
    from.run(|| {
        let socket = UdpSocket::bind((any, 0)).expect("a UDP socket");
        socket.connect((to, port)).expect("a route to the peer");
        socket
    })
}

/// Sends a datagram to an [`Echo`]; true if the same bytes come back within `wait`.
pub fn udp_echo(socket: &UdpSocket, bytes: &[u8], wait: Duration) -> bool {
    socket.set_read_timeout(Some(wait)).expect("a read timeout");
    if socket.send(bytes).is_err() {
        return false;
    }
    let mut back = vec![0; bytes.len() + 1];
    matches!(socket.recv(&mut back), Ok(length) if back[..length] == *bytes)
}

/// Whether a datagram to a port is refused: somebody says that nobody is there.
///
/// # Panics
/// If there is no way to `to`.
#[track_caller]
pub fn udp_is_refused(from: &Netns, to: IpAddr, port: u16) -> bool {
    let socket = udp_socket(from, to, port);
    socket.set_read_timeout(Some(HUNG)).expect("a read timeout");
    socket.send(b"anybody?").expect("send");
    let heard = socket.recv(&mut [0; 8]);
    heard.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

/// A one-shot `iperf3 -s` in a namespace.
#[derive(Debug)]
pub struct IperfServer {
    _running: Running,
    port: u16,
}

impl IperfServer {
    /// Starts it and waits until it listens.
    #[track_caller]
    pub fn start(netns: &Netns, port: u16) -> IperfServer {
        let mut command = netns.command("iperf3");
        command.args(["-s", "-p", &port.to_string()]);
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let running = Running::start(&mut command);
        let listens = || {
            netns
                .run(|| TcpStream::connect((IpAddr::from([127, 0, 0, 1]), port)).is_ok())
                .then_some(())
        };
        assert!(
            poll(HUNG, listens).is_some(),
            "iperf3 does not listen on port {port}"
        );
        IperfServer {
            _running: running,
            port,
        }
    }
}

/// Moves TCP data for some seconds and returns iperf3's report.
///
/// # Panics
/// If iperf3 fails.
#[track_caller]
pub fn iperf(from: &Netns, to: IpAddr, server: &IperfServer, seconds: u32, more: &[&str]) -> Value {
    let mut command = from.command("iperf3");
    command.args([
        "-J",
        "-c",
        &to.to_string(),
        "-p",
        &server.port.to_string(),
        "-t",
        &seconds.to_string(),
    ]);
    let text = run(
        command.args(more),
        b"",
        HUNG + Duration::from_secs(seconds.into()),
    )
    .success("iperf3");
    serde_json::from_str(&text).expect("iperf3 prints JSON")
}
