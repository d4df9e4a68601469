package lockstep.logdaemon;

import java.util.Locale;

/** One line on standard error; who wants times has svlogd or journald put them there. */
final class Log {
    private Log() {}

    static void say(String format, Object... values) {
        System.err.println("logdaemon: " + String.format(Locale.ROOT, format, values));
    }
}
