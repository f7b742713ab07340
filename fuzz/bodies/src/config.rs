//! Both configuration files: a problem is said, and names the file.

use std::path::Path;

/// `agent.toml`
pub fn agent_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match fieldpost_agent::config::Config::parse(Path::new("agent.toml"), text) {
        Ok(config) => {
            assert!(config.agent.concurrency >= 1 && !config.hubs.is_empty());
            assert!(config.needs_restart(&config).is_empty());
        }
        Err(problem) => assert!(problem.to_string().starts_with("agent.toml"), "{problem}"),
    }
}

/// `hub.toml`
pub fn hub_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(problem) = fieldpost_hub::config::Config::parse(Path::new("hub.toml"), text) {
        assert!(problem.to_string().starts_with("hub.toml"), "{problem}");
    }
}
