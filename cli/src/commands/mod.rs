//! One file per command: parse, ask, print.

#[cfg(feature = "server")]
pub mod bench;
pub mod cluster;
pub mod deploy;
#[cfg(feature = "server")]
pub mod dev;
#[cfg(feature = "server")]
pub mod disk;
pub mod doctor;
pub mod limit;
pub mod run;
#[cfg(feature = "server")]
pub mod serve;

use holdfast::Client;

use crate::{Globals, output::Failure};

/// The cluster that the flags, the environment or the profile name.
///
/// # Errors
/// An address is malformed.
pub async fn client(globals: &Globals) -> Result<Client, Failure> {
    if globals.endpoints.is_empty() {
        return Ok(Client::from_env().await?);
    }
    Ok(Client::connect(&globals.endpoints).await?)
}
