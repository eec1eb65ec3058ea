//! The macro that makes the types, and a row for each option, from the table. It names types as
//! the table imports them.

/// Each option is written `NAME FIELD: TYPE = (KIND, DEFAULT) { ROW }`. `binhosts` have one value
/// for each binhost and are resolved there; those that have no default of their own leave it out.
/// The values of `mount` and `object_store` are [`MountOptions`](super::MountOptions). The names of
/// the latter begin with their table and a dot.
macro_rules! define_options {
    (
        binhosts { $($binhost_name:literal $of_binhost:ident: $binhost_type:ty = ($binhost_kind:expr $(, $binhost_default:expr)?) { $($binhost_row:tt)* })* }
        mount { $($mount_name:literal $of_mount:ident: $mount_type:ty = ($mount_kind:expr, $mount_default:expr) { $($mount_row:tt)* })* }
        object_store { $($store_name:literal $of_store:ident: $store_type:ty = ($store_kind:expr, $store_default:expr) { $($store_row:tt)* })* }
        command_line { $($words_name:literal $of_words:ident: $words_type:ty = ($words_kind:expr) { $($words_row:tt)* })* }
    ) => {
        /// The settings of one source: the command line, binhostfs.toml, one of its tables, or
        /// Portage. `None`: the source does not set the option.
        #[derive(Debug, Default)]
        #[cfg_attr(test, derive(Clone))]
        pub(crate) struct Settings {
            $(pub(crate) $of_binhost: Option<Sourced<$binhost_type>>,)*
            $(pub(crate) $of_mount: Option<Sourced<$mount_type>>,)*
            $(pub(crate) $of_store: Option<Sourced<$store_type>>,)*
            $(pub(crate) $of_words: Option<Sourced<$words_type>>,)*
        }

        /// The values of the options that concern the whole mount.
        #[derive(Debug, Clone)]
        pub(crate) struct MountOptions {
            $(pub(crate) $of_mount: $mount_type,)*
            $(pub(crate) $of_store: $store_type,)*
        }

        impl MountOptions {
            /// Takes each value from the first source that has one, and notes it in the report.
            pub(in crate::config) fn resolve(sources: &[&Settings], report: &mut Report) -> Self {
                let has_store = sources.iter().any(|source| false $(|| source.$of_store.is_some())*);
                // Who has no store is not told its defaults.
                let unread = &mut Report::default();
                Self {
                    $($of_mount: Typed::$of_mount().resolve(sources, "", report),)*
                    $($of_store: Typed::$of_store().resolve(sources, "", if has_store { report } else { unread }),)*
                }
            }
        }

        /// Each option with its type, by the name of its field.
        pub(in crate::config) struct Typed;

        impl Typed {
            $($(define_options!(@typed $binhost_name $of_binhost: $binhost_type = ($binhost_kind, $binhost_default));)?)*
            $(define_options!(@typed $mount_name $of_mount: $mount_type = ($mount_kind, $mount_default));)*
            $(define_options!(@typed $store_name $of_store: $store_type = ($store_kind, $store_default));)*
        }

        /// All options, in the order of help and documentation.
        pub static OPTIONS: &[OptionRow] = &[
            $(define_options!(
                @row $binhost_name $of_binhost: $binhost_type = ($binhost_kind $(, $binhost_default)?) { $($binhost_row)* }
                |_, _| false
            ),)*
            $(define_options!(
                @row $mount_name $of_mount: $mount_type = ($mount_kind, $mount_default) { scope: Scope::Mount, $($mount_row)* }
                |one, other| one.$of_mount != other.$of_mount
            ),)*
            $(define_options!(
                @row $store_name $of_store: $store_type = ($store_kind, $store_default) {
                    scope: Scope::ObjectStore, topic: Topic::Fetching, takes_effect: TakesEffect::AfterRestart, $($store_row)*
                }
                |one, other| one.$of_store != other.$of_store
            ),)*
            $(define_options!(
                @row $words_name $of_words: $words_type = ($words_kind) { scope: Scope::CommandLine, $($words_row)* }
                |_, _| false
            ),)*
        ];
    };
    (@typed $name:literal $field:ident: $type:ty = ($kind:expr, $default:expr)) => {
        pub(in crate::config) const fn $field() -> TypedOption<$type> {
            TypedOption {
                name: $name,
                kind: $kind,
                default: || $default,
                get: |settings| settings.$field.as_ref(),
            }
        }
    };
    (@row $name:literal $field:ident: $type:ty = ($kind:expr $(, $default:expr)?) { $($row:tt)* } $differs:expr) => {{
        const KIND: Kind<$type> = $kind;
        OptionRow {
            info: OptionInfo { $($row)* ..OptionInfo::named($name) },
            said: concat!("--", $name),
            input: KIND.input,
            default: || None$(.or_else(|| Some((KIND.write)(&$default))))?,
            set_text: |settings, text, said| put(&KIND, &mut settings.$field, text, said),
            set_toml: |settings, table, key| Ok(settings.$field = table.get(key, KIND.toml)?),
            differs: $differs,
        }
    }};
}

pub(super) use define_options;
