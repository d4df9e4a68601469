package lockstep.logdaemon;

import java.io.IOException;
import java.util.concurrent.CountDownLatch;

/** Where events come from. */
interface Input {
    /** The kind of input, as it is written into the name of an unfinished batch. */
    enum Origin {
        /** Read once: an unfinished batch holds the only copy. */
        PIPE("pipe-"),
        /** Still in the spool, where a file stays until its events are in a finished batch. */
        SPOOL("spool-");

        final String prefix;

        Origin(String prefix) {
            this.prefix = prefix;
        }
    }

    /** Feeds the collector until the input ends or {@code stop} is down; all that was read is then in the collector. */
    void feed(Collector collector, CountDownLatch stop) throws IOException, InterruptedException;

    /** Called when all lines handed over so far are in finished batches or saved rejects. */
    void settled() throws IOException;
}
