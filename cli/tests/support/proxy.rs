//! A wire between two processes, to be cut: connections are passed on, or held in silence, or dropped.
//!
//! Invariant: bytes are never changed or reordered; what was held in silence arrives when the wire is mended.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{AbortHandle, JoinHandle},
};

/// The wire to one port.
pub struct Proxy {
    address: SocketAddr,
    passes: watch::Sender<bool>,
    open: Arc<std::sync::Mutex<Vec<AbortHandle>>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own and passes on to this one.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (passes, state) = watch::channel(true);
        let open: Arc<std::sync::Mutex<Vec<AbortHandle>>> = Arc::default();
        let all = Arc::clone(&open);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let passing = tokio::spawn(pass(stream, port, state.clone()));
                all.lock().unwrap().push(passing.abort_handle());
            }
        });
        Self {
            address,
            passes,
            open,
            accepting,
        }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Nothing passes any more, and nobody is told: as when a cable is cut.
    pub fn cut(&self) {
        self.passes.send_replace(false);
    }

    /// What waited passes, and whatever comes.
    pub fn mend(&self) {
        self.passes.send_replace(true);
    }

    /// Both ends of every open connection see it closed; new ones are welcome. Says how many there were.
    pub fn drop_connections(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock().unwrap());
        let living = open.iter().filter(|it| !it.is_finished()).count();
        open.iter().for_each(AbortHandle::abort);
        living
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.drop_connections();
    }
}

async fn pass(from: TcpStream, port: u16, state: watch::Receiver<bool>) {
    let Ok(to) = TcpStream::connect(("127.0.0.1", port)).await else {
        return; // the node is down: so is its port
    };
    for stream in [&from, &to] {
        let _ = stream.set_nodelay(true); // an optimization
    }
    let ((from_in, from_out), (to_in, to_out)) = (from.into_split(), to.into_split());
    // One side closed: the other is closed too.
    tokio::select! {
        () = pump(from_in, to_out, state.clone()) => {}
        () = pump(to_in, from_out, state) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<bool>) {
    let mut bytes = [0; 16 * 1024];
    loop {
        let count = match from.read(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        if state.wait_for(|passes| *passes).await.is_err()
            || to.write_all(&bytes[..count]).await.is_err()
        {
            return;
        }
    }
}
