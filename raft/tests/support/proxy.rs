//! A way to a node that can be cut: connections through it are reset, and new ones come to be at once.

use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Ends with the test's runtime.
pub struct Proxy {
    pub address: String,
    cuts: Arc<watch::Sender<u64>>,
}

impl Proxy {
    pub async fn to(upstream: String) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", super::cluster::free_port()))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cuts = Arc::new(watch::Sender::new(0));
        let told = Arc::clone(&cuts);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
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
        Self { address, cuts }
    }

    /// Ends every connection there is.
    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }
}
