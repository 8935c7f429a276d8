//! Setters for the settings of providers, which may gain fields in any release.

/// A method for each field, which returns the settings with that field set: `OPTIONAL` fields are `None` otherwise.
macro_rules! setters {
    ($config:ty { $($field:ident: $type:ty),* } optional { $($optional:ident: $inner:ty),* }) => {
        impl $config {
            $(
                #[doc = concat!("Sets `", stringify!($field), "`.")]
                #[must_use]
                pub fn $field(mut self, $field: impl Into<$type>) -> Self {
                    self.$field = $field.into();
                    self
                }
            )*
            $(
                #[doc = concat!("Sets `", stringify!($optional), "`.")]
                #[must_use]
                pub fn $optional(mut self, $optional: impl Into<$inner>) -> Self {
                    self.$optional = Some($optional.into());
                    self
                }
            )*
        }
    };
}

pub(crate) use setters;
