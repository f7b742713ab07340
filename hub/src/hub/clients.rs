//! Who may ask for what.

use fieldpost_wire::Name;

use super::Who;
use super::nodes::Node;
use crate::config::{Client, Role, Selector};
use crate::protocol::Refusal;

/// What the name of the hub's own host is in the audit trail.
pub const LOCAL: &str = "local";

/// The clients of the configuration.
#[derive(Debug, Default)]
pub struct Clients {
    list: Vec<(String, Client)>,
}

/// What somebody may do.
#[derive(Debug, Clone)]
pub struct Rights {
    /// The name in the audit trail.
    pub name: String,
    /// The role.
    pub role: Role,
    jobs: Option<Vec<Name>>,
    selectors: Option<Vec<Selector>>,
}

impl Clients {
    /// These, from now on. Gives the keys whose rights are less or gone: to be cut.
    pub fn replace(&mut self, clients: Vec<Client>) -> Vec<String> {
        let list: Vec<_> =
            clients.into_iter().map(|client| (client.key.to_string(), client)).collect();
        let before = std::mem::replace(&mut self.list, list);
        let changed = before.into_iter().filter(|old| !self.list.contains(old));
        changed.map(|(key, _)| key).collect()
    }

    /// Keys of clients that see nodes of one of these groups because they are in it.
    pub fn of_groups(&self, groups: &[Name]) -> Vec<String> {
        let sees = |client: &Client| {
            client.selectors.iter().flatten().any(
                |selector| matches!(selector, Selector::Group(group) if groups.contains(group)),
            )
        };
        self.list.iter().filter(|(_, client)| sees(client)).map(|(key, _)| key.clone()).collect()
    }

    /// Whether this key is a client's.
    pub fn knows(&self, key: &str) -> bool {
        self.list.iter().any(|(known, _)| known == key)
    }

    /// What somebody may do; `None`: nothing.
    pub fn rights(&self, who: Who<'_>) -> Option<Rights> {
        match who {
            Who::Local => Some(Rights {
                name: LOCAL.to_owned(),
                role: Role::Admin,
                jobs: None,
                selectors: None,
            }),
            Who::Key(key) => {
                let (_, client) = self.list.iter().find(|(known, _)| known == key)?;
                Some(Rights {
                    name: client.name.to_string(),
                    role: client.role,
                    jobs: client.jobs.clone(),
                    selectors: client.selectors.clone(),
                })
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }
}

impl Rights {
    /// Whether this role is enough.
    pub fn need(&self, role: Role, op: &str) -> Result<(), Refusal> {
        if self.role >= role {
            return Ok(());
        }
        let word = |role| match role {
            Role::Read => "read",
            Role::Trigger => "trigger",
            Role::Admin => "admin",
        };
        Err(Refusal::new(
            "not_allowed",
            format!(
                "{op} needs the role {}, and the client {:?} has {}; the hub's configuration says \
                 who has which",
                word(role),
                self.name,
                word(self.role)
            ),
        ))
    }

    /// Whether it is limited at all.
    pub fn is_limited(&self) -> bool {
        self.jobs.is_some()
            || self.selectors.as_ref().is_some_and(|list| !list.contains(&Selector::All))
    }

    /// Whether it may see and trigger this job.
    pub fn job(&self, job: &str) -> bool {
        self.jobs.as_ref().is_none_or(|jobs| jobs.iter().any(|name| **name == *job))
    }

    /// The jobs it is limited to.
    pub fn jobs(&self) -> Option<&[Name]> {
        self.jobs.as_deref()
    }

    /// Whether it may see and trigger this node.
    pub fn node(&self, node: &Node) -> bool {
        self.selectors.as_ref().is_none_or(|selectors| {
            selectors.iter().any(|selector| match selector {
                Selector::All => true,
                Selector::Group(group) => node.is_in(group),
                Selector::Node(name) => *name == node.record.name,
            })
        })
    }

    /// Whether it sees every node.
    pub fn all_nodes(&self) -> bool {
        self.selectors.as_ref().is_none_or(|list| list.contains(&Selector::All))
    }

    /// What it is told that asks for more than its nodes.
    pub fn limited(&self) -> Refusal {
        let (name, to) = (&self.name, self.selectors_in_words());
        Refusal::new("not_allowed", format!("the client {name:?} is limited to {to}"))
    }

    /// In words, what it is limited to.
    pub fn selectors_in_words(&self) -> String {
        let words: Vec<String> = self
            .selectors
            .iter()
            .flatten()
            .map(|selector| match selector {
                Selector::All => "all".to_owned(),
                Selector::Group(name) => format!("group:{name}"),
                Selector::Node(name) => format!("node:{name}"),
            })
            .collect();
        words.join(", ")
    }
}
