//! A way to a node that can be cut: connections through it are reset, and new ones come to be at once unless it is shut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Ends with the test's runtime.
pub struct Proxy {
    pub address: String,
    cuts: Arc<watch::Sender<u64>>,
    shut: Arc<AtomicBool>,
}

impl Proxy {
    pub async fn to(upstream: String) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", super::cluster::free_port()))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cuts = Arc::new(watch::Sender::new(0));
        let told = Arc::clone(&cuts);
        let shut = Arc::new(AtomicBool::new(false));
        let refuses = Arc::clone(&shut);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if refuses.load(Ordering::SeqCst) {
                    continue;
                }
                let (upstream, mut cut) = (upstream.clone(), told.subscribe());
                tokio::spawn(async move {
                    near.set_nodelay(true).unwrap();
                    let Ok(mut far) = TcpStream::connect(upstream).await else {
                        return;
                    };
                    far.set_nodelay(true).unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self {
            address,
            cuts,
            shut,
        }
    }

    /// Ends every connection there is.
    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// Ends every connection there is, and lets none through until it is open again.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub fn open(&self) {
        self.shut.store(false, Ordering::SeqCst);
    }
}
