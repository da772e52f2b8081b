//! Passwords and tokens, which no log and no error may show.

/// A text that is never shown: its Debug is a word.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "[none]" } else { "[secret]" })
    }
}

/// Who asks a registry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Credentials {
    /// Nobody in particular.
    #[default]
    Anonymous,
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token that a login gave, with which tokens for requests are asked for (OAuth2's refresh token).
    Identity(Secret),
    /// A token for requests that the caller has already.
    Bearer(Secret),
}

impl Credentials {
    /// A name and a password; without a name, nobody.
    pub fn password(user: &str, password: &str) -> Credentials {
        if user.is_empty() && password.is_empty() {
            return Credentials::Anonymous;
        }
        Credentials::Password { user: user.to_owned(), password: Secret::new(password) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_debug_shows_a_secret() {
        let shown = format!(
            "{:?} {:?} {:?}",
            Credentials::password("me", "hunter2"),
            Credentials::Identity(Secret::new("hunter2")),
            Credentials::Bearer(Secret::new("hunter2"))
        );
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("me"), "{shown}");
    }
}
