##! Log rotation of a node that runs under zeek-cluster-agent.
##!
##! Without a Supervisor, Zeek hands each rotated log to scripts that only zeekctl installs ("archive-log", "delete-log").
##! Here rotated logs stay in the agent's log queue, under the names that zeek-archiver reads.
##!
##! Zeek 5.0 to 9.0. The agent writes this file into the node's directory and loads it after the configuration's scripts.

redef Log::default_rotation_postprocessor_cmd = "";

@if ( getenv("ZCA_LOG_QUEUE") != "" )
redef Log::default_rotation_dir = getenv("ZCA_LOG_QUEUE");
@endif

# Comes with the scripts of a logger, which a manager loads, too, if there is no logger.
@ifdef ( archiver_rotation_format_func )
redef Log::rotation_format_func = archiver_rotation_format_func;

# What an earlier process of this node left is rotated, too.
redef LogAscii::enable_leftover_log_rotation = T;
@endif
