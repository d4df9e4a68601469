package lockstep.logdaemon;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;

/** What the command line asks for. {@code spool} is null for standard input. */
record Options(Path spool, Path work, Path upload, Path rejects, String host, Batches.Limits limits, int lineBytes) {

    static final String HELP =
            """
            usage: logdaemon [--input -|DIR] --work DIR --upload DIR [OPTION VALUE]...

            Reads newline-separated JSON log events, adds when, where and by what they were received, and moves them in
            gzip batches into the upload folder, each file whole and at once.

              --input -|DIR        standard input (default), or a spool folder into which files are moved
              --work DIR           where batches are written; on the upload folder's file system
              --upload DIR         where finished batches go
              --rejects FILE       where lines go that are no JSON object (default: rejects.log in the work folder)
              --host NAME          the host in the annotations (default: this machine's name)
              --batch-seconds N    finish a batch this long after its first event (default 300)
              --batch-bytes N      or at this size before compression (default 67108864)
              --batch-events N     or at this many events (default 1000000)
              --line-bytes N       longer lines are rejected (default 1048576)
              --version            print the version and exit
              --help               print this and exit

            Delivery is at least once. A spool file is removed when its events are in the upload folder; standard input
            has no way back, so there a killed daemon loses what it had read in the last moment, and only that: the next
            one recovers the batch that was being written. SIGTERM and SIGINT empty the pipe, or end the spool file at
            hand, and finish the batch. Exit status: 0 done, 1 failed, 2 misused.
            """;

    /** A command line that makes no sense; the message says what and what to do. */
    static final class Misused extends Exception {
        private static final long serialVersionUID = 1;

        Misused(String format, Object... values) {
            super(format.formatted(values));
        }
    }

    static Options parse(String[] arguments) throws Misused {
        Map<String, String> given = given(arguments);
        String input = given.getOrDefault("--input", "-");
        Path work = folder("--work", required(given, "--work"));
        Path upload = folder("--upload", required(given, "--upload"));
        Path spool = input.equals("-") ? null : folder("--input", input);
        if (upload.equals(work) || work.equals(spool) || upload.equals(spool)) {
            throw new Misused("--input, --work and --upload must be different folders");
        }
        String kept = given.getOrDefault("--rejects", work.resolve("rejects.log").toString());
        Path rejects = Path.of(kept).toAbsolutePath();
        if (Files.isDirectory(rejects) || !Files.isDirectory(rejects.getParent())) {
            throw new Misused("--rejects %s: a file in a folder that exists is needed", rejects);
        }
        String host = given.containsKey("--host") ? given.get("--host") : hostName();
        if (!host.matches("[A-Za-z0-9][A-Za-z0-9._-]{0,100}")) {
            throw new Misused("--host %s: a name of letters, digits, '.', '_' and '-' is needed", host);
        }
        var limits = new Batches.Limits(
                number(given, "--batch-bytes", 64 << 20, 1L << 40),
                number(given, "--batch-events", 1_000_000, 1L << 40),
                number(given, "--batch-seconds", 300, 7 * 24 * 3600) * 1_000_000_000L);
        int lineBytes = (int) number(given, "--line-bytes", 1 << 20, 1 << 30);
        return new Options(spool, work, upload, rejects, host, limits, lineBytes);
    }

    private static Map<String, String> given(String[] arguments) throws Misused {
        Map<String, String> given = new TreeMap<>();
        for (int i = 0; i < arguments.length; i++) {
            String[] parts = arguments[i].split("=", 2);
            if (!parts[0].matches("--(input|work|upload|rejects|host|batch-(seconds|bytes|events)|line-bytes)")) {
                throw new Misused("unknown argument %s: see --help", arguments[i]);
            }
            if (parts.length == 1 && i + 1 == arguments.length) {
                throw new Misused("%s needs a value: see --help", parts[0]);
            }
            if (given.put(parts[0], parts.length == 2 ? parts[1] : arguments[++i]) != null) {
                throw new Misused("%s is given twice", parts[0]);
            }
        }
        return given;
    }

    private static String required(Map<String, String> given, String option) throws Misused {
        if (!given.containsKey(option)) {
            throw new Misused("%s is missing: see --help", option);
        }
        return given.get(option);
    }

    private static Path folder(String option, String text) throws Misused {
        Path folder = Path.of(text).toAbsolutePath().normalize();
        if (!Files.isDirectory(folder)) {
            throw new Misused("%s %s: there is no such folder", option, text);
        }
        if (!Files.isWritable(folder)) {
            throw new Misused("%s %s: this user may not write there", option, text);
        }
        return folder;
    }

    private static long number(Map<String, String> given, String option, long otherwise, long most) throws Misused {
        String text = given.get(option);
        if (text == null) {
            return otherwise;
        }
        try {
            long number = Long.parseLong(text);
            if (number >= 1 && number <= most) {
                return number;
            }
        } catch (NumberFormatException notOne) {
            // Told below.
        }
        throw new Misused("%s %s: a whole number from 1 to %d is needed", option, text, most);
    }

    private static String hostName() throws Misused {
        try {
            return Files.readString(Path.of("/proc/sys/kernel/hostname")).strip();
        } catch (IOException unknown) {
            throw new Misused("this machine's name cannot be read: give one with --host");
        }
    }
}
