//! Why a statement was run as it was: a closed list, each with the label that counts and
//! `SHOW pgspan.last_route` show, and with what a user can do about it.

/// Declares the causes: a new one has a label and advice, or it does not compile.
macro_rules! causes {
    ($($name:ident = $label:literal, $advice:ident;)*) => {
        /// Why a route was taken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Cause {
            $(#[doc = concat!("\u{201c}", $label, "\u{201d}.")] $name,)*
        }

        impl Cause {
            /// All of them, in the order of their declaration.
            pub const ALL: &[Cause] = &[$(Cause::$name,)*];

            /// Short, stable text: a label of counts.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Cause::$name => $label,)*
                }
            }

            /// What a user can do.
            pub const fn advice(self) -> Advice {
                match self {
                    $(Cause::$name => Advice::$advice,)*
                }
            }
        }
    };
}

causes! {
    // Routes that were taken as planned.
    NoForeignTable = "no foreign table is named", Nothing;
    OneSource = "one source answers all of it", Nothing;
    FewRows = "the foreign rows are few", Nothing;
    MuchCrosses = "much crosses", Nothing;
    // What the client asked for.
    StrategyFallback = "pgspan.strategy is fallback", Strategy;
    StrategyUnknown = "pgspan.strategy is none of auto, home_join, engine, fallback", Strategy;
    Cancelled = "cancelled", Nothing;
    ExplainAlone = "EXPLAIN", Nothing;
    // What a statement is.
    NotParsed = "not parsed", Report;
    NotUnderstood = "not understood", PlainSelect;
    TooDeep = "it nests too deep to be read", Shorter;
    SeveralStatements = "more than one statement", OneByOne;
    SeveralInBatch = "a batch of several statements", OneByOne;
    NotAQuery = "not a query", PlainSelect;
    SelectInto = "SELECT INTO", PlainSelect;
    RowLocks = "row locks", PlainSelect;
    ModifyingWith = "data-modifying WITH", PlainSelect;
    TableCommand = "TABLE command", PlainSelect;
    OnlyInParentheses = "ONLY in parentheses", PlainSelect;
    ExplainOption = "EXPLAIN option", ExplainPlain;
    CopyWithoutParentheses = "COPY without parentheses", CopyQuery;
    CopyExtended = "COPY in the extended protocol", CopyQuery;
    Copy = "COPY", Nothing;
    ParameterInSimple = "a parameter in the simple protocol", Report;
    OtherFormats = "another number of formats", Report;
    OtherParameters = "another number of parameters", Report;
    TooManyTables = "too many tables in FROM", Shorter;
    WithTies = "WITH TIES over min or max", PlainSelect;
    // Names.
    Unresolved = "a name that is not resolved", Qualify;
    NameTooLong = "a name that is too long", Qualify;
    TableName = "table name", Qualify;
    ColumnName = "column name", Qualify;
    FunctionName = "function name", Qualify;
    RowOrColumn = "a name that may be a row or a column", Qualify;
    OverlappingNames = "overlapping names", Qualify;
    SystemColumn = "system column", PlainSelect;
    SystemCatalog = "system catalog", PlainSelect;
    KeywordAtSource = "a column that is a keyword at the source", Rename;
    KeywordColumn = "a column that is named like a keyword", Rename;
    // What it calls.
    OperatorNotImmutable = "an operator of this name is not immutable", BuiltIn;
    ImplicitCastNotImmutable = "an implicit cast that is not immutable", BuiltIn;
    CastNotImmutable = "a cast that is not immutable", BuiltIn;
    AttributeNotation = "attribute notation may call a function", Qualify;
    OperatorOutside = "operator outside pg_catalog", BuiltIn;
    FunctionOutside = "function outside pg_catalog", BuiltIn;
    FunctionVolatile = "volatile or session function", BuiltIn;
    // Settings and constants.
    ConstantBySettings = "a constant that settings make text, in a prepared statement", Parameter;
    ConstantAtSource = "a constant that the source reads as settings print it", Setting;
    Setting = "setting", Setting;
    NoSettings = "no settings", Report;
    SettingWithBar = "a setting with | in it", Setting;
    OutputSettings = "setting: DateStyle, IntervalStyle or extra_float_digits", Setting;
    SettingAtSource = "setting at the source: array_nulls or transform_null_equals", SettingAtSource;
    Isolation = "isolation level", Isolation;
    ClientEncoding = "client_encoding", Encoding;
    ReadOtherwise = "prepared under other settings or names", PrepareAgain;
    // Relations at home.
    NoRelation = "no such relation at home", Report;
    NoSelect = "no SELECT on the whole table", Grant;
    ForeignWithChildren = "foreign table with children", NameTables;
    ParentOfForeign = "a parent of foreign tables", NameTables;
    RowSecurity = "row security at home", NameTables;
    ViewNotLocal = "a view that is not proven local", NameTables;
    ViewOrVirtual = "a view, or a virtual column", NameTables;
    VirtualColumn = "a virtual column", NameTables;
    RelationKind = "kind of relation", NameTables;
    NoForeignRead = "no foreign table is read", Nothing;
    ReachedUnnamed = "a foreign table reached unnamed", NameTables;
    OwnCollation = "a column with a collation or domain of its own", Declare;
    NamesObjects = "a type that names objects", Declare;
    ModifiersInSetOperation = "type modifiers in a set operation", Declare;
    // Servers and mappings.
    NoServer = "no server", Report;
    NoForeignServer = "no foreign server", Report;
    OtherWrapper = "another foreign data wrapper", PostgresFdw;
    ForeignOfOtherWrapper = "a foreign table of another wrapper", PostgresFdw;
    WrapperOptions = "options on the foreign data wrapper", ServerOption;
    ServerOption = "server option", ServerOption;
    NoHost = "server without a TCP host", ServerOption;
    ServerPort = "server port", ServerOption;
    NoMapping = "no user mapping", Mapping;
    MappingUnreadable = "user mapping not readable by the role", Mapping;
    MappingWithoutUser = "user mapping without a user", Mapping;
    NoPassword = "the source asked for no password", Mapping;
    Unreachable = "source not reachable", Reach;
    SourceBusy = "source connections are all in use", Connections;
    TooManyFragments = "more fragments than limits.source_connections_max", Connections;
    SourceLost = "source connection lost", Passing;
    SourceError = "the source reported an error", SourceError;
    SourceSilent = "a source gave no answer", Passing;
    Interrupted = "the wait for the source was ended", Nothing;
    NoSnapshot = "the source exported no snapshot", Reach;
    NotLocked = "a table at the source is locked or may not be", GrantAtSource;
    // Relations at the source.
    NoTableAtSource = "no such table at the source", Declare;
    NoColumnAtSource = "no such column at the source", Declare;
    DeclaredOtherwise = "declared otherwise than at the source", Declare;
    OtherCollation = "another collation at the source", Declare;
    OtherLocale = "another locale or encoding at the source", Declare;
    NotNullAtHome = "NOT NULL at home only", Declare;
    OtherTypes = "other types at the source", Declare;
    NotPlainTable = "not a plain table at the source", PlainTable;
    RowSecurityAtSource = "row security at the source", PlainTable;
    // Transaction blocks.
    ClosesInBlock = "a batch that closes something in a block", OutsideBlock;
    PortalInBlock = "a portal that stays open in a block", OutsideBlock;
    ExplainInBlock = "EXPLAIN ANALYZE in a block", OutsideBlock;
    FollowsInBlock = "home must read what follows in such a block", OutsideBlock;
    OtherRoleInBlock = "another role than the block's first", OutsideBlock;
    EngineInBlock = "the engine does not run inside a transaction block", OutsideBlock;
    MightNotRun = "home might not run the foreign scan in this block", OutsideBlock;
    Touched = "home may have read or written the source in this block", ReadFirst;
    ServerAltered = "the server was altered in the block", OutsideBlock;
    SourceMoved = "the source has changed since the block read it", Passing;
    // What home said.
    HomeError = "home reported an error", HomeError;
    Refused = "home refuses what the plan asks", Passing;
    HomeMoves = "home does not stand still", Passing;
    HomeNotice = "home raises a notice", Nothing;
    NotHomesGrammar = "the original is not of home's grammar", Nothing;
    CatalogAnswer = "catalog answer", Report;
    TooLongAnswer = "a server's answer is too long", Report;
    GivesNoRows = "the rewritten statement gives no rows", Report;
    DescribesOtherwise = "the rewritten statement describes itself otherwise", Report;
    // Home's plan.
    PlanNotRead = "home's plan could not be read", PlainJoins;
    RemoteNotRead = "Remote SQL could not be read", PlainJoins;
    NotAPlainRead = "not a plain read", PlainSelect;
    ForeignModified = "a foreign table is modified", PlainSelect;
    SourceSorts = "the source sorts by what may fail", PlainJoins;
    NotDirect = "not direct", Nothing;
    // Limits.
    Outgrown = "more rows than limits.home_join_rows_max or _bytes_max", RowLimit;
    NoRoom = "limits.held_bytes_max is in use by other statements", RowLimit;
    EngineMemory = "the engine's memory is used up", EngineMemory;
    FinishTooLarge = "more rows than the finish may take", RowLimit;
    RowTooLong = "a row too long for the finish", RowLimit;
    TooManyKeys = "more keys than were expected", Passing;
    // What is not for the engine: the statement.
    TablesSmall = "the tables are small", Nothing;
    StandsByItself = "a subquery that stands by itself", PlainJoins;
    RunsFirst = "subqueries over foreign tables, which run first: see EXPLAIN ANALYZE", ExplainAnalyze;
    LimitStops = "a LIMIT after which PostgreSQL stops", PlainJoins;
    NoBlock = "no block", PlainJoins;
    BlockNotRun = "a block that the engine cannot run", PlainJoins;
    BlockWithoutRows = "a block that gives no rows", PlainJoins;
    BlockSpeaksOfOuter = "a block that speaks of the query around it", PlainJoins;
    NoCore = "no core", PlainJoins;
    CoreNotPlanned = "home does not plan the core", Report;
    Collate = "COLLATE", PlainJoins;
    CastUnknown = "a cast to a type that the engine does not know", PlainJoins;
    NotTheEngines = "operators, functions or aggregates that are not the engine's", PlainJoins;
    RenamingAlias = "an alias that renames columns", PlainJoins;
    Distinct = "DISTINCT", PlainJoins;
    DistinctOn = "DISTINCT ON", PlainJoins;
    FragmentNotDescribed = "a fragment could not be described", Report;
    NoFragment = "no fragment", Report;
    ColumnOfType = "a column of the type", PlainJoins;
    TypeByVersion = "a type that servers of different versions read differently", Versions;
    SetOperation = "a set operation", PlainJoins;
    GroupByDistinct = "GROUP BY DISTINCT", PlainJoins;
    NothingFolded = "nothing is folded", PlainJoins;
    GroupingSets = "grouping sets", PlainJoins;
    GroupByResultName = "GROUP BY a name of the result", PlainJoins;
    StarBeside = "* beside other things", PlainJoins;
    GroupConditionMayFail = "a condition on groups that is one on rows, and may fail", PlainJoins;
    NoColumnNeeded = "no column is needed", PlainJoins;
    GroupByPosition = "GROUP BY position", PlainJoins;
    SubqueryInFinish = "a subquery in what is finished at home", PlainJoins;
    ColumnsOfStar = "columns of *", PlainJoins;
    Columns = "columns", PlainJoins;
    FunctionOfKey = "a function of a group key in what is finished at home", PlainJoins;
    OverlappingExpressions = "overlapping expressions", PlainJoins;
    StarInExpression = "* in an expression", PlainJoins;
    AggregateFilter = "an aggregate with FILTER or ORDER BY", PlainJoins;
    AvgDistinct = "avg(DISTINCT)", PlainJoins;
    ClausesNotFound = "clauses could not be told apart", PlainJoins;
    ListNotFound = "a list could not be told apart", PlainJoins;
    AliasNotFound = "an alias could not be told apart", PlainJoins;
    ExpressionNotFound = "an expression could not be found in the text", PlainJoins;
    CallNotFound = "a call could not be found in the text", PlainJoins;
    // What is not for the engine: the operators of home's plan.
    OutputNotFound = "an output that cannot be told apart", PlainJoins;
    SubqueryNoJoin = "a subquery that is not a join", PlainJoins;
    NoSuchOperator = "an operator that the engine does not have", PlainJoins;
    UnneededMayFail = "what nobody needs may fail", PlainJoins;
    ConditionWithSubquery = "a condition with a subquery", PlainJoins;
    ExpressionNotPassed = "an expression the engine cannot pass on", PlainJoins;
    ConditionNotShipped = "a condition that is not shipped", PlainJoins;
    ParameterAtSource = "a parameter at the source", PlainJoins;
    KindOfJoin = "a kind of join", PlainJoins;
    ExpressionOverBoth = "an expression over both sides of a join", PlainJoins;
    NotEquality = "a join condition that is not plain equality", PlainJoins;
    ExpressionNullable = "an expression over the nullable side of a join", PlainJoins;
    ConditionOverBoth = "a condition over both sides of a join", PlainJoins;
    FoldInParts = "a fold in parts", PlainJoins;
    ExpressionOverGroups = "an expression over groups", PlainJoins;
    NoPlainNames = "a subquery whose columns have no plain names", PlainJoins;
    ArmTwice = "an arm that gives the same twice", PlainJoins;
    ArmOfAppend = "an arm of an Append", PlainJoins;
    UnneededUnionColumn = "a column of UNION ALL that nothing needs", PlainJoins;
    ConditionNotEvaluated = "a condition the engine does not evaluate", PlainJoins;
    // What is not for the engine: values.
    UnexpectedRow = "unexpected row", Report;
    TextNotRead = "a value whose text cannot be read", Values;
    ValuesTooLarge = "values that are too large", Values;
    NotFinite = "NaN or an infinity", Values;
    NumberTooLarge = "a number that is too large", Values;
    ScalesDiffer = "numerics of different scales", Scale;
    TypeNotCarried = "a type that the engine does not carry", PlainJoins;
    NoTextForm = "a value without a text form", Values;
    UnionDiffers = "columns of a union that differ", PlainJoins;
    EmptyCondition = "an empty condition", Report;
    ComparisonNotProven = "a comparison that is not proven", PlainJoins;
    ArithmeticNotProven = "arithmetic that is not proven", PlainJoins;
    ColumnNotThere = "a column that is not there", Report;
    QuotientGivenOut = "a quotient that is given out", PlainJoins;
    EqualityNotProven = "an equality that is not proven", PlainJoins;
    JoinOfOtherShape = "a join of another shape", PlainJoins;
    NotGroupedExactly = "a type that is not grouped by exactly", PlainJoins;
    AggregateNotProven = "an aggregate that is not proven", PlainJoins;
    AggregateOfOtherType = "an aggregate of another type", PlainJoins;
    ReadTwice = "a fragment that is read twice", Report;
    SeveralCores = "rows of several cores", Report;
    NobodyReceives = "nobody receives", Nothing;
    EngineStopped = "the engine stopped", Report;
    // Defects: home answers all the same, but no test may meet them.
    NotRewritten = "a defect of the gateway: the statement could not be rewritten", Report;
    NotSql = "a defect of the gateway: its text is not SQL", Report;
}

/// Declares the advice, in English and in Chinese.
macro_rules! advice {
    ($($name:ident = $english:literal, $chinese:literal;)*) => {
        /// What a user can do about a [`Cause`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Advice {
            /// Nothing: it is as it should be.
            Nothing,
            $(#[doc = $english] $name,)*
        }

        impl Advice {
            /// In English; `None` when there is nothing to do.
            pub const fn english(self) -> Option<&'static str> {
                match self {
                    Advice::Nothing => None,
                    $(Advice::$name => Some($english),)*
                }
            }

            /// In Chinese.
            pub const fn chinese(self) -> Option<&'static str> {
                match self {
                    Advice::Nothing => None,
                    $(Advice::$name => Some($chinese),)*
                }
            }
        }
    };
}

advice! {
    Strategy = "SET pgspan.strategy = 'auto' lets the gateway choose.",
        "SET pgspan.strategy = 'auto' 让网关自行选择。";
    Report = "This should not happen. Please report the statement with its EXPLAIN (VERBOSE).",
        "这不应发生。请附上该语句及其 EXPLAIN (VERBOSE) 提交报告。";
    PlainSelect = "Home runs it through postgres_fdw. Written as a plain SELECT over tables, subqueries and WITH queries it runs here; what writes or locks is better a statement of its own.",
        "由本地库经 postgres_fdw 执行。改写为对表、子查询和 WITH 查询的普通 SELECT 即可由网关执行；写入或加锁请另用一条语句。";
    Shorter = "Split the statement, or put long lists of values into a parameter of an array type: = ANY ($1).",
        "请拆分该语句，或把很长的值列表放进一个数组参数：= ANY ($1)。";
    OneByOne = "Send each statement by itself.",
        "请逐条发送语句。";
    ExplainPlain = "EXPLAIN with ANALYZE, VERBOSE, COSTS, TIMING, SUMMARY and FORMAT is answered here; other options are home's.",
        "网关支持 EXPLAIN 的 ANALYZE、VERBOSE、COSTS、TIMING、SUMMARY 和 FORMAT 选项；其他选项由本地库处理。";
    ExplainAnalyze = "EXPLAIN ANALYZE runs it, and shows its parts.",
        "EXPLAIN ANALYZE 会实际执行并显示各部分。";
    CopyQuery = "COPY (SELECT ...) TO STDOUT in the simple protocol runs here, as psql sends it.",
        "以简单协议发送 COPY (SELECT …) TO STDOUT（psql 即如此）可由网关执行。";
    Qualify = "Give tables an alias, and name columns as alias.column.",
        "请为表起别名，并以 别名.列名 引用列。";
    Rename = "Rename the column, or name it by the option column_name of the foreign table.",
        "请重命名该列，或在外部表上用 column_name 选项指定列名。";
    BuiltIn = "Functions, operators and casts of users, and volatile ones, are run by home alone. Compute such a value in a statement of its own, and pass it as a parameter.",
        "用户自定义的以及易变（volatile）的函数、运算符和类型转换只由本地库执行。请另用一条语句求值，再作为参数传入。";
    Parameter = "Write the constant as a literal of its type, such as DATE '2026-01-31', or pass it as a parameter.",
        "请把常量写成带类型的字面值（如 DATE '2026-01-31'），或作为参数传入。";
    Setting = "RESET the setting in sessions that read foreign tables.",
        "在读取外部表的会话中请 RESET 该设置。";
    SettingAtSource = "Reset array_nulls and transform_null_equals for the source's database and role.",
        "请在源库中为相应数据库和角色重置 array_nulls 与 transform_null_equals。";
    Isolation = "In a transaction block statements run here under READ COMMITTED. A statement by itself runs here under any default but SERIALIZABLE.",
        "事务块中的语句只有在 READ COMMITTED 下可由网关执行；单独执行的语句，只要默认隔离级别不是 SERIALIZABLE，也可由网关执行。";
    Encoding = "SET client_encoding = 'UTF8'.",
        "请 SET client_encoding = 'UTF8'。";
    PrepareAgain = "Prepare the statement again: settings or names have changed since.",
        "设置或名称已改变，请重新 PREPARE 该语句。";
    Grant = "GRANT SELECT on the whole table to the role; rights on single columns are home's to check.",
        "请把整张表的 SELECT 权限授予该角色；列级权限由本地库检查。";
    NameTables = "Name the foreign tables themselves: views over them, their parents and children, row security and virtual columns are home's.",
        "请直接引用外部表：基于外部表的视图、其父表和子表、行级安全以及虚拟列由本地库处理。";
    Declare = "Declare the foreign table's columns as the source has them (type, modifier, collation, NOT NULL); IMPORT FOREIGN SCHEMA does so.",
        "请按源库的定义声明外部表的列（类型、修饰符、排序规则、NOT NULL）；IMPORT FOREIGN SCHEMA 会这样做。";
    PlainTable = "Let the foreign table stand for a plain table at the source, without row security for the mapping's user.",
        "请让外部表对应源库中的普通表，且对映射用户不启用行级安全。";
    PostgresFdw = "Foreign tables of postgres_fdw run here; others are home's.",
        "网关只执行 postgres_fdw 的外部表；其他外部表由本地库处理。";
    ServerOption = "The gateway connects by host, port, dbname, sslmode, sslrootcert and timeouts. Remove the option, or leave the server to home.",
        "网关按 host、port、dbname、sslmode、sslrootcert 和超时选项连接。请去掉该选项，否则由本地库访问该服务器。";
    Mapping = "CREATE USER MAPPING for the role, with user and password, at a source that asks for the password.",
        "请为该角色 CREATE USER MAPPING 并给出 user 和 password，且源库须要求密码认证。";
    Reach = "The gateway must reach the source from where it runs: check address, network, firewall, gateway.source_networks, and SHOW pgspan.servers.",
        "网关须能从其所在位置连到源库：请检查地址、网络、防火墙、gateway.source_networks 以及 SHOW pgspan.servers。";
    Connections = "Raise limits.source_connections_max, or run fewer such statements at once.",
        "请调高 limits.source_connections_max，或减少同时执行的此类语句。";
    Passing = "It passes: the next run takes the faster way again. If it stays, look at the gateway's log.",
        "这是暂时的：下次执行会恢复较快的方式。若持续出现，请查看网关日志。";
    SourceError = "Home runs the statement and shows its own error, if there is one; the source's error is in the reason.",
        "本地库会执行该语句，若有错误由其报告；源库的错误见原因。";
    GrantAtSource = "GRANT the mapping's user SELECT on the table at the source; or wait for who holds the lock.",
        "请在源库把该表的 SELECT 权限授予映射用户；或等待持锁者释放。";
    OutsideBlock = "Run it outside of a transaction block.",
        "请在事务块之外执行。";
    ReadFirst = "In a transaction block, read across databases before anything else touches the source, or in a block of its own.",
        "在事务块中，请先做跨库读取再做其他涉及该源库的操作，或另用一个事务块。";
    HomeError = "Home runs the statement, and its error is the one that counts; it is in the reason.",
        "由本地库执行该语句，以其错误为准；错误见原因。";
    PlainJoins = "Only the engine for large results does not take this form; smaller results do not need it. Joins by equality, GROUP BY columns, and count, sum, avg, min and max run there.",
        "只是处理大结果的引擎不支持这种写法，小结果不受影响。等值连接、按列 GROUP BY 以及 count、sum、avg、min、max 可由引擎执行。";
    RowLimit = "Narrow the statement by filters or LIMIT, or raise the limit.",
        "请用过滤条件或 LIMIT 缩小范围，或调高该限制。";
    EngineMemory = "Raise limits.engine_query_bytes_max, or read less.",
        "请调高 limits.engine_query_bytes_max，或减少读取量。";
    Versions = "Servers of one major version exchange every type.",
        "主版本相同的服务器之间可交换所有类型。";
    Values = "Such values are computed by home; rows without them run in the engine.",
        "此类值由本地库计算；不含此类值的数据可由引擎执行。";
    Scale = "Declare the column as numeric(p, s): sums of one scale run in the engine.",
        "请把该列声明为 numeric(p, s)：小数位数一致的求和可由引擎执行。";
}
