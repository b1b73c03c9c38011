import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.io.Writer;
import java.lang.reflect.Array;
import java.lang.reflect.Constructor;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.tools.FileObject;
import javax.tools.ForwardingJavaFileManager;
import javax.tools.JavaCompiler;
import javax.tools.JavaFileManager;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;
import javax.tools.StandardJavaFileManager;
import javax.tools.ToolProvider;

/**
 * Compiles snippets in memory and calls their methods; see prefloop.rewards.sandbox.
 *
 * One job per line on standard input: number TAB base64(source) TAB case TAB case ...; a case is arguments joined by
 * spaces: i5, s(base64), l1,2,3. One line per job on standard output: number TAB status TAB result TAB result ...
 * A line "stopped" says that the remaining jobs want another machine.
 * status: ok, printed (a program with only main), compile, none (no such method), error, timeout, refused.
 */
class Harness {
    static final long WALL_MILLIS = 2000;
    static final int MOST_STUCK = 2;
    static final int OUTPUT_BYTES = 65536;

    /** A snippet sees these classes and no others: no files, threads, processes, reflection or network. */
    static final Set<String> LANG = Set.of(
        "Object", "String", "StringBuilder", "StringBuffer", "Math", "StrictMath", "Integer", "Long", "Short", "Byte",
        "Character", "Boolean", "Double", "Float", "Number", "System", "CharSequence", "Comparable", "Iterable",
        "Override", "Throwable", "Void", "Record", "Enum", "AutoCloseable", "Cloneable", "FunctionalInterface");
    static final Set<String> NOT_UTIL = Set.of(
        "Formatter", "Timer", "TimerTask", "ServiceLoader", "ResourceBundle", "Properties");
    /** Names that reach further than the class list can see: factories of handles, streams on files, unicode escapes. */
    static final Pattern REFUSED = Pattern.compile(
        "\\\\u|MethodHandle|MethodType|VarHandle|java\\s*\\.\\s*lang\\s*\\.\\s*invoke|PrintStream|InputStream"
        + "|System\\s*\\.\\s*(?!out\\b|err\\b|in\\b|currentTimeMillis\\b|nanoTime\\b|arraycopy\\b|lineSeparator\\b"
        + "|identityHashCode\\b)");
    static final Pattern CLASS = Pattern.compile("\\b(?:class|record|enum|interface)\\s+(\\w+)");
    static final Pattern PUBLIC = Pattern.compile("\\bpublic\\s+(?:final\\s+|abstract\\s+)*(?:class|record|enum|interface)\\s+(\\w+)");
    static final Pattern IMPORT = Pattern.compile("(?m)^\\s*import\\s+[\\w.* ]+;");

    static final PrintStream RESULTS =
        new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.US_ASCII);

    public static void main(String[] args) throws Exception {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        StandardJavaFileManager files = compiler.getStandardFileManager(null, Locale.ROOT, StandardCharsets.UTF_8);
        List<String> jobs = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII)).lines().toList();
        int stuck = 0;
        for (String line : jobs) {
            String[] fields = line.split("\t");
            String[] outcome = {"timeout"};
            Thread thread = new Thread(null, () -> {
                try {
                    outcome[0] = run(compiler, files, decode(fields[1]), fields);
                } catch (Throwable error) {
                    // Whatever hostile code throws, a stack overflow or an exhausted heap included, is its failure.
                    outcome[0] = "error";
                }
            }, "snippet", 1 << 20);
            thread.setDaemon(true);
            thread.start();
            thread.join(WALL_MILLIS + (line == jobs.get(0) ? 8000 : 0)); // the first one waits for the compiler to load
            RESULTS.println(fields[0] + "\t" + outcome[0]);
            stuck += thread.isAlive() ? 1 : 0;
            if (stuck == MOST_STUCK) { // threads cannot be killed: leave the rest to a machine with free processors
                RESULTS.println("stopped");
                break;
            }
        }
        RESULTS.flush();
        Runtime.getRuntime().halt(0);
    }

    static String run(JavaCompiler compiler, StandardJavaFileManager files, String source, String[] fields) throws Throwable {
        if (REFUSED.matcher(source).find()) {
            return "refused";
        }
        Map<String, byte[]> classes = compile(compiler, files, source);
        if (classes == null) {
            return "compile";
        }
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        PrintStream bounded = new PrintStream(new Bounded(printed), true, StandardCharsets.UTF_8);
        System.setOut(bounded);
        System.setErr(bounded);
        System.setIn(new ByteArrayInputStream("7\n5\n".getBytes(StandardCharsets.UTF_8)));
        Loader loader = new Loader(classes);
        Method main = null;
        int arity = fields[2].split(" ").length;
        for (String name : classes.keySet()) {
            Method[] methods = loader.loadClass(name).getDeclaredMethods();
            Arrays.sort(methods, Comparator.comparingInt(method -> place(method, source))); // reflection keeps no order
            for (Method method : methods) {
                if (method.isSynthetic()) {
                    continue;
                }
                if (method.getName().equals("main")) {
                    main = method;
                } else if (method.getParameterCount() == arity && fits(method.getParameterTypes(), fields[2].split(" "))) {
                    return "ok" + results(method, fields);
                }
            }
        }
        if (main == null) {
            return "none";
        }
        main.setAccessible(true);
        main.invoke(target(main), main.getParameterCount() == 0 ? new Object[0] : new Object[] {new String[0]});
        return "printed\ts" + Base64.getEncoder().encodeToString(printed.toByteArray());
    }

    static int place(Method method, String source) {
        Matcher matcher = Pattern.compile("\\b" + Pattern.quote(method.getName()) + "\\s*\\(").matcher(source);
        return matcher.find() ? matcher.start() : Integer.MAX_VALUE;
    }

    static String results(Method method, String[] fields) throws Throwable {
        method.setAccessible(true);
        Object target = target(method);
        StringBuilder line = new StringBuilder();
        for (int i = 2; i < fields.length; i++) {
            String[] given = fields[i].split(" ");
            Object[] arguments = new Object[given.length];
            for (int k = 0; k < given.length; k++) {
                arguments[k] = convert(given[k], method.getParameterTypes()[k]);
            }
            line.append('\t').append(encode(method.invoke(target, arguments)));
        }
        return line.toString();
    }

    static Object target(Method method) throws Exception {
        if (Modifier.isStatic(method.getModifiers())) {
            return null;
        }
        Constructor<?> constructor = method.getDeclaringClass().getDeclaredConstructor();
        constructor.setAccessible(true);
        return constructor.newInstance();
    }

    static boolean fits(Class<?>[] types, String[] given) {
        for (int i = 0; i < types.length; i++) {
            if (convert(given[i], types[i]) == null) {
                return false;
            }
        }
        return true;
    }

    /** An argument as the parameter's type wants it, or null when the type takes no such thing. */
    static Object convert(String text, Class<?> type) {
        String value = text.substring(1);
        if (text.charAt(0) == 's') {
            String decoded = decode(value);
            return type.isAssignableFrom(String.class) ? decoded : null;
        }
        if (text.charAt(0) == 'i') {
            return number(Integer.parseInt(value), type);
        }
        String[] parts = value.isEmpty() ? new String[0] : value.split(",");
        if (type.isArray()) {
            Object array = Array.newInstance(type.getComponentType(), parts.length);
            for (int i = 0; i < parts.length; i++) {
                Object item = number(Integer.parseInt(parts[i]), type.getComponentType());
                if (item == null) {
                    return null;
                }
                Array.set(array, i, item);
            }
            return array;
        }
        if (type.isAssignableFrom(ArrayList.class)) {
            List<Integer> list = new ArrayList<>();
            for (String part : parts) {
                list.add(Integer.parseInt(part));
            }
            return list;
        }
        return null;
    }

    static Object number(int value, Class<?> type) {
        if (type == int.class || type == Integer.class) return value;
        if (type == long.class || type == Long.class) return (long) value;
        if (type == double.class || type == Double.class) return (double) value;
        if (type == float.class || type == Float.class) return (float) value;
        if (type == short.class || type == Short.class) return (short) value;
        return null;
    }

    static String encode(Object value) {
        if (value instanceof Integer || value instanceof Long || value instanceof Short) return "i" + value;
        if (value instanceof Double || value instanceof Float) return "f" + value;
        if (value instanceof Boolean) return "b" + value;
        if (value instanceof String || value instanceof StringBuilder) {
            String text = value.toString();
            text = text.length() > 1000 ? text.substring(0, 1000) : text;
            return "s" + Base64.getEncoder().encodeToString(text.getBytes(StandardCharsets.UTF_8));
        }
        return "n";
    }

    static String decode(String text) {
        return new String(Base64.getDecoder().decode(text), StandardCharsets.UTF_8);
    }

    /** Class files by name in the order of the source, or null when it does not compile. A bare method gets a class. */
    static Map<String, byte[]> compile(JavaCompiler compiler, StandardJavaFileManager files, String source) {
        if (!CLASS.matcher(source).find()) {
            StringBuilder imports = new StringBuilder();
            Matcher matcher = IMPORT.matcher(source);
            while (matcher.find()) {
                imports.append(matcher.group()).append('\n');
            }
            source = imports + "class Snippet {\n" + IMPORT.matcher(source).replaceAll("") + "\n}";
        }
        Matcher named = PUBLIC.matcher(source);
        String unit = named.find() ? named.group(1) : "Snippet";
        String text = source;
        JavaFileObject input = new SimpleJavaFileObject(URI.create("string:///" + unit + ".java"), JavaFileObject.Kind.SOURCE) {
            @Override
            public CharSequence getCharContent(boolean ignoreEncodingErrors) {
                return text;
            }
        };
        Map<String, ByteArrayOutputStream> made = new LinkedHashMap<>();
        JavaFileManager memory = new ForwardingJavaFileManager<>(files) {
            @Override
            public JavaFileObject getJavaFileForOutput(Location where, String name, JavaFileObject.Kind kind, FileObject from) {
                ByteArrayOutputStream bytes = new ByteArrayOutputStream();
                made.put(name, bytes);
                return new SimpleJavaFileObject(URI.create("bytes:///" + name.replace('.', '/') + kind.extension), kind) {
                    @Override
                    public OutputStream openOutputStream() {
                        return bytes;
                    }
                };
            }
        };
        List<String> options = List.of("-proc:none", "-XDstringConcat=inline", "-nowarn", "-g:none");
        boolean compiled = compiler.getTask(Writer.nullWriter(), memory, problem -> { }, options, null, List.of(input)).call();
        if (!compiled) {
            return null;
        }
        Map<String, byte[]> classes = new LinkedHashMap<>();
        made.forEach((name, bytes) -> classes.put(name, bytes.toByteArray()));
        return classes;
    }


    static final class Loader extends ClassLoader {
        final Map<String, byte[]> classes;

        Loader(Map<String, byte[]> classes) {
            super(ClassLoader.getPlatformClassLoader());
            this.classes = new HashMap<>(classes);
        }

        @Override
        protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
            Class<?> loaded = findLoadedClass(name);
            if (loaded != null) {
                return loaded;
            }
            byte[] bytes = classes.get(name);
            if (bytes != null) {
                return defineClass(name, bytes, 0, bytes.length);
            }
            if (!allowed(name)) {
                throw new ClassNotFoundException("not allowed here: " + name);
            }
            return super.loadClass(name, resolve);
        }

        static boolean allowed(String name) {
            int dot = name.lastIndexOf('.');
            String pack = dot < 0 ? "" : name.substring(0, dot);
            String simple = name.substring(dot + 1);
            switch (pack) {
                case "java.lang":
                    return LANG.contains(simple) || simple.endsWith("Exception") || simple.endsWith("Error");
                case "java.util":
                    return !NOT_UTIL.contains(simple);
                case "java.lang.invoke": // lambdas; a source that names its classes has been refused
                case "java.util.function":
                case "java.util.stream":
                case "java.math":
                    return true;
                case "java.io":
                    return simple.equals("PrintStream") || simple.equals("InputStream") || simple.endsWith("Exception");
                default:
                    return false;
            }
        }
    }

    static final class Bounded extends OutputStream {
        final ByteArrayOutputStream kept;

        Bounded(ByteArrayOutputStream kept) {
            this.kept = kept;
        }

        @Override
        public void write(int value) {
            if (kept.size() >= OUTPUT_BYTES) {
                throw new IllegalStateException("too much output");
            }
            kept.write(value);
        }
    }
}
