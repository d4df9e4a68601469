package lockstep.logdaemon;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.temporal.ChronoUnit;

/** Lines in; annotated events to the batches, all others to the rejects. */
final class Collector implements Lines.Receiver {
    /** The key under which an event carries its annotations; a BigQuery record. */
    static final String KEY = "logdaemon";

    private static final int REASONS_TOLD = 20;

    private final Batches batches;
    private final Rejects rejects;
    private final Input input;
    private final Json json = new Json(KEY);
    private final String annotation;
    private final int lineBytes;
    private long sequence;

    /** @param input is told whenever all lines so far are where they stay */
    Collector(
            Batches batches, Rejects rejects, Input input, int lineBytes, String host, String version, String run) {
        this.batches = batches;
        this.rejects = rejects;
        this.input = input;
        this.lineBytes = lineBytes;
        annotation = "\"host\":" + quoted(host) + ",\"version\":" + quoted(version) + ",\"run\":" + quoted(run);
    }

    /** A cutter of lines that come here. */
    Lines lines() {
        return new Lines(this, lineBytes);
    }

    @Override
    public void line(byte[] bytes, int from, int to) throws IOException {
        if (isBlank(bytes, from, to)) {
            return;
        }
        try {
            int brace = json.closingBrace(bytes, from, to);
            // BigQuery's timestamps end at microseconds.
            Instant received = Instant.now().truncatedTo(ChronoUnit.MICROS);
            String comma = json.isEmpty() ? "" : ",";
            String tail = "%s\"%s\":{\"received\":\"%s\",%s,\"sequence\":%d}}"
                    .formatted(comma, KEY, received, annotation, ++sequence);
            batches.add(bytes, from, brace, tail.getBytes(StandardCharsets.UTF_8));
            if (batches.isDue()) {
                settle();
            }
        } catch (Json.Malformed malformed) {
            rejects.write(bytes, from, to);
            reject(malformed.getMessage());
        }
    }

    @Override
    public void tooLong(byte[] bytes, int from, int to, boolean last) throws IOException {
        rejects.write(bytes, from, to);
        if (last) {
            reject("longer than " + lineBytes + " bytes");
        }
    }

    /** How many events were taken since the daemon started. */
    long count() {
        return sequence;
    }

    /** Nanoseconds until the open batch is due. */
    long nanosLeft() {
        return batches.nanosLeft();
    }

    void flush() throws IOException {
        batches.flush();
        rejects.flush();
    }

    /** Finishes the open batch if it is due; without one, there may still be rejects to save. */
    void settleIfDue() throws IOException {
        if (!batches.isOpen() || batches.isDue()) {
            settle();
        }
    }

    void settle() throws IOException {
        rejects.save();
        batches.finish();
        input.settled();
    }

    private void reject(String reason) throws IOException {
        rejects.endLine();
        if (rejects.count() <= REASONS_TOLD) {
            Log.say("rejected a line: %s", reason);
        } else if (rejects.count() == REASONS_TOLD + 1) {
            Log.say("rejected more lines; their reasons are no longer told");
        }
    }

    private static boolean isBlank(byte[] bytes, int from, int to) {
        for (int i = from; i < to; i++) {
            if (bytes[i] != ' ' && bytes[i] != '\t' && bytes[i] != '\r') {
                return false;
            }
        }
        return true;
    }

    /** RFC 8259, section 7. A version may hold what a Git tag may: anything but control characters and backslashes. */
    private static String quoted(String text) {
        return '"' + text.replace("\"", "\\\"") + '"';
    }
}
