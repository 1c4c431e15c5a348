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

# What an earlier process of this node left is rotated, too.
redef LogAscii::enable_leftover_log_rotation = T;

# Zeek rotates only in clusters by itself.
@if ( getenv("CLUSTER_NODE") == "" && Log::default_rotation_interval == 0secs )
redef Log::default_rotation_interval = 1hr;
@endif

@ifdef ( archiver_rotation_format_func )
# Comes with the scripts of a logger, which a manager loads, too, if there is no logger.
redef Log::rotation_format_func = archiver_rotation_format_func;

@ifndef ( archiver_log_metadata )
# Before Zeek 6.0 nothing in the name tells the loggers of one host apart, and one's log would take the place of another's.
function zeek_cluster_agent_rotation_format_func(ri: Log::RotationFmtInfo): Log::RotationPath
	{
	local path = ri$path;

	if ( |Cluster::nodes_with_type(Cluster::LOGGER)| > 1 )
		path = fmt("%s-%s", path, Cluster::node);

	return archiver_rotation_format_func(Log::RotationFmtInfo($writer=ri$writer, $path=path, $open=ri$open,
	    $close=ri$close, $terminating=ri$terminating));
	}

redef Log::rotation_format_func = zeek_cluster_agent_rotation_format_func;
@endif
@else
# A node that writes only its own logs: one without a role, or one of a cluster with local logging. The node's name tells its
# logs from those of other nodes in the same queue.
function zeek_cluster_agent_rotation_format_func(ri: Log::RotationFmtInfo): Log::RotationPath
	{
	local opened = strftime(Log::default_rotation_date_format, ri$open);
	local closed = strftime(Log::default_rotation_date_format, ri$close);

	# In a name of zeek-archiver these characters have a meaning.
	local node = gsub(gsub(getenv("ZCA_NODE"), /[,=\/]/, "_"), /__+/, "_");

	# The form with a suffix is read since Zeek 6.0; before, the name is part of the log's.
	if ( Version::number >= 60000 )
		return Log::RotationPath($file_basename=fmt("%s__%s__%s__log_suffix=%s__", ri$path, opened, closed, node));

	return Log::RotationPath($file_basename=fmt("%s-%s__%s__%s__", ri$path, node, opened, closed));
	}

redef Log::rotation_format_func = zeek_cluster_agent_rotation_format_func;
@endif
