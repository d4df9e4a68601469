package lockstep.logdaemon;

import java.io.IOException;
import java.io.InputStream;
import java.util.Arrays;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** Standard input. A thread of its own reads it, since no signal and no deadline ends a read that waits. */
final class PipeInput implements Input {
    private static final byte[] END = new byte[0];
    /** How often the main thread looks whether it shall stop or a batch is due. */
    private static final long LOOK_MILLIS = 50;
    /** After a stop, a pipe in which nothing came for this long is empty. */
    private static final long QUIET_MILLIS = 250;
    /** A writer that never pauses is left behind this long after a stop; `sv stop` waits for 7 s. */
    private static final long DRAIN_NANOS = TimeUnit.SECONDS.toNanos(4);

    private final InputStream in;
    private final BlockingQueue<byte[]> chunks = new ArrayBlockingQueue<>(16);
    private volatile IOException failure;

    PipeInput(InputStream in) {
        this.in = in;
    }

    @Override
    public void feed(Collector collector, CountDownLatch stop) throws IOException, InterruptedException {
        Thread reader = new Thread(this::read, "stdin");
        reader.setDaemon(true);
        reader.start();
        Lines lines = collector.lines();
        long stopped = 0;
        while (true) {
            boolean stopping = stop.getCount() == 0;
            if (stopping && stopped == 0) {
                stopped = System.nanoTime();
            }
            byte[] chunk = chunks.poll();
            if (chunk == null) {
                collector.flush();
                chunk = chunks.poll(stopping ? QUIET_MILLIS : LOOK_MILLIS, TimeUnit.MILLISECONDS);
            }
            if (chunk == END || (stopping && (chunk == null || System.nanoTime() - stopped > DRAIN_NANOS))) {
                break;
            }
            if (chunk != null) {
                lines.add(chunk, chunk.length);
            }
            collector.settleIfDue();
        }
        lines.end();
        if (failure != null) {
            collector.settle();
            throw failure;
        }
    }

    @Override
    public void settled() {}

    private void read() {
        byte[] buffer = new byte[1 << 16];
        try {
            try {
                for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
                    chunks.put(Arrays.copyOf(buffer, count));
                }
            } catch (IOException broken) {
                failure = broken;
            }
            chunks.put(END);
        } catch (InterruptedException unheard) {
            Thread.currentThread().interrupt();
        }
    }
}
