//! Where the cluster is: `HOLDFAST_ENDPOINTS`, else the profile that the CLI uses, else this machine.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::ClientError;

/// The API of a node that `holdfast dev` started.
const LOCAL: &str = "127.0.0.1:7100";

#[derive(Deserialize)]
struct Profile {
    endpoints: Option<Vec<String>>,
}

/// As the environment and the file system have it.
pub(crate) fn from_env() -> Result<Vec<String>, ClientError> {
    let variable = std::env::var("HOLDFAST_ENDPOINTS").ok();
    let profile = path().and_then(|path| Some((std::fs::read_to_string(&path).ok()?, path)));
    let profile = profile
        .as_ref()
        .map(|(text, path)| (text.as_str(), path.as_path()));
    choose(variable.as_deref(), profile)
}

/// The profile that the CLI uses.
fn path() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config"));
    Some(config.or_else(home)?.join("holdfast").join("config.toml"))
}

fn choose(
    variable: Option<&str>,
    profile: Option<(&str, &Path)>,
) -> Result<Vec<String>, ClientError> {
    if let Some(variable) = variable {
        let endpoints = variable
            .split(',')
            .map(str::trim)
            .filter(|it| !it.is_empty());
        return Ok(endpoints.map(str::to_owned).collect());
    }
    let local = || vec![LOCAL.to_owned()];
    let Some((text, path)) = profile else {
        return Ok(local());
    };
    let profile: Profile = toml::from_str(text).map_err(|cause| ClientError::Refused {
        code: "HF3002".to_owned(),
        message: format!("{}: {cause}", path.display()),
    })?;
    Ok(profile.endpoints.unwrap_or_else(local))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "/home/someone/.config/holdfast/config.toml";

    fn chosen(variable: Option<&str>, profile: Option<&str>) -> Result<Vec<String>, ClientError> {
        choose(variable, profile.map(|text| (text, Path::new(PROFILE))))
    }

    #[test]
    fn the_variable_goes_first_then_the_profile_then_this_machine() {
        let file = Some("endpoints = ['n1:7100']");
        assert_eq!(chosen(Some("a:1, b:2,"), file).unwrap(), ["a:1", "b:2"]);
        assert_eq!(chosen(None, file).unwrap(), ["n1:7100"]);
        assert_eq!(chosen(None, Some("color = true")).unwrap(), [LOCAL]);
        assert_eq!(chosen(None, None).unwrap(), [LOCAL]);
    }

    #[test]
    fn a_profile_that_cannot_be_read_is_refused_by_its_path() {
        let refused = chosen(None, Some("endpoints = 7")).unwrap_err();
        assert!(
            refused.to_string().contains("holdfast/config.toml"),
            "{refused}"
        );
    }
}
